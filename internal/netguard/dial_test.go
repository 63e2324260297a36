package netguard_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

// trap is a listener that counts its connections and closes them.
type trap struct {
	addr netip.AddrPort
	hits atomic.Int64
}

// listen returns a trap on the address, or nil if it cannot be had.
func listen(t testing.TB, address string) *trap {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil
	}
	trap := &trap{addr: netip.MustParseAddrPort(l.Addr().String())}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			trap.hits.Add(1)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return trap
}

// pair returns two traps on one port: inside, on an address that the test allows, and forbidden, on one that it does
// not. They stand for a public and a private address.
func pair(t testing.TB) (inside, forbidden *trap) {
	t.Helper()
	for range 20 {
		inside = listen(t, "127.0.0.2:0")
		if inside == nil {
			t.Skip("this machine has no 127.0.0.2")
		}
		forbidden = listen(t, "127.0.0.1:"+strconv.Itoa(int(inside.addr.Port())))
		if forbidden != nil {
			return inside, forbidden
		}
	}
	require.Fail(t, "no port is free on both addresses")
	return nil, nil
}

// insideOnly is a policy that allows the traps named inside, and nothing else on this machine.
var insideOnly = netguard.Policy{AllowPrefixes: prefixes("127.0.0.2/32")}

// hook is the address to dial for the name under test.
func hook(port uint16) string { return "hook.example.com:" + strconv.Itoa(int(port)) }

// hookOf is another host with the port of a trap.
func hookOf(host string, trap *trap) string { return host + ":" + strconv.Itoa(int(trap.addr.Port())) }

func requireBlocked(t testing.TB, err error) {
	t.Helper()
	var blocked *netguard.Blocked
	require.ErrorAs(t, err, &blocked)
	require.EqualError(t, err, "netguard: address not allowed")
}

func TestDialJudgesEveryAnswer(t *testing.T) {
	t.Parallel()
	private := make([]netip.Addr, 300)
	for i := range private {
		private[i] = netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
	}
	for name, c := range map[string]struct {
		answer answer
		ok     bool
	}{
		"loopback":                 {answer{addrs: addrs("127.0.0.1")}, false},
		"mapped loopback":          {answer{addrs: addrs("::ffff:127.0.0.1")}, false},
		"loopback of both":         {answer{addrs: addrs("127.0.0.1", "192.0.2.1", "::1")}, false},
		"NAT64":                    {answer{addrs: addrs("64:ff9b::7f00:1")}, false},
		"unspecified":              {answer{addrs: addrs("0.0.0.0", "::")}, false},
		"alias of localhost":       {answer{alias: "localhost.", addrs: addrs("127.0.0.1")}, false},
		"alias of metadata":        {answer{alias: "metadata.google.internal.", addrs: addrs("169.254.169.254")}, false},
		"300 private":              {answer{addrs: private}, false},
		"allowed":                  {answer{addrs: addrs("127.0.0.2")}, true},
		"allowed, mapped":          {answer{addrs: addrs("::ffff:127.0.0.2")}, true},
		"alias of allowed":         {answer{alias: "a.example.com.", addrs: addrs("127.0.0.2")}, true},
		"mixed":                    {answer{addrs: addrs("127.0.0.1", "::1", "127.0.0.2", "10.0.0.1")}, true},
		"one behind 300 private":   {answer{addrs: append(private[:300:300], addrs("127.0.0.2")...)}, true},
		"the same one many times":  {answer{addrs: addrs("127.0.0.2", "127.0.0.2", "::ffff:127.0.0.2")}, true},
		"private network of AWS":   {answer{addrs: addrs("fd00:ec2::254", "169.254.169.254")}, false},
		"6to4, Teredo, site-local": {answer{addrs: addrs("2002:7f00:1::1", "2001:0:53aa:64c::1", "fec0::1")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inside, forbidden := pair(t)
			server, resolver := newNameServer(t, func(string, int) answer { return c.answer })
			g := newGuard(t, insideOnly)
			g.Resolver = resolver
			conn, err := g.DialContext(t.Context(), "tcp", hook(inside.addr.Port()))
			if c.ok {
				require.NoError(t, err)
				require.Equal(t, inside.addr.String(), conn.RemoteAddr().String())
				require.NoError(t, conn.Close())
			} else {
				requireBlocked(t, err)
				require.Zero(t, inside.hits.Load())
			}
			require.Zero(t, forbidden.hits.Load())
			if len(c.answer.addrs) >= 300 {
				require.Positive(t, server.streams(), "the answer does not fit into a packet")
			}
		})
	}
}

func TestRebinding(t *testing.T) {
	t.Parallel()
	inside, forbidden := pair(t)
	_, resolver := newNameServer(t, func(_ string, asked int) answer {
		if asked == 0 {
			return answer{addrs: addrs("127.0.0.2")}
		}
		return answer{addrs: addrs("127.0.0.1")}
	})
	g := newGuard(t, insideOnly)
	g.Resolver = resolver
	conn, err := g.DialContext(t.Context(), "tcp", hook(inside.addr.Port()))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	for range 3 {
		_, err = g.DialContext(t.Context(), "tcp", hook(inside.addr.Port()))
		requireBlocked(t, err)
	}
	require.Zero(t, forbidden.hits.Load())
}

func TestNamesAreAbsolute(t *testing.T) {
	t.Parallel()
	server, resolver := newNameServer(t, func(string, int) answer { return answer{rcode: rcodeNoName} })
	g := newGuard(t, netguard.Policy{})
	g.Resolver = resolver
	for _, host := range []string{"kubernetes.default.svc", "hook.example.com", "hook.example.com."} {
		_, err := g.DialContext(t.Context(), "tcp", host+":443")
		var dns *net.DNSError
		require.ErrorAs(t, err, &dns)
		require.True(t, dns.IsNotFound)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "dial", op.Op)
	}
	for _, name := range server.names() {
		require.Contains(t, []string{"kubernetes.default.svc.", "hook.example.com."}, name)
	}
}

func TestNamesThatAreNeverLookedUp(t *testing.T) {
	t.Parallel()
	server, resolver := newNameServer(t, func(string, int) answer { return answer{addrs: addrs("127.0.0.1")} })
	g := newGuard(t, netguard.Policy{})
	g.Resolver = resolver
	for _, address := range []string{
		"svc:443", "localhost:443", "LOCALHOST.:443", "a.localhost:443", "db.internal:443", "127.1:443", "0x7f000001:443",
		"2130706433:443", "127.0.0.1.:443", "a..b:443", "a_b.example:443", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:443", ":443", ".:443",
		"%00.example.com:443",
		"example.com:22", "example.com:0", "example.com:https", "example.com:", "example.com:65536", "example.com", "",
		"[fe80::1%lo]:443", "127.0.0.1:443", "[::1]:443", "[::]:443", "0.0.0.0:443", "[::ffff:127.0.0.1]:443",
	} {
		_, err := g.DialContext(t.Context(), "tcp", address)
		requireBlocked(t, err)
	}
	for _, network := range []string{"udp", "unix", "ip", "tcp5", ""} {
		_, err := g.DialContext(t.Context(), network, "example.com:443")
		requireBlocked(t, err)
	}
	require.Empty(t, server.names())
}

func TestInnerNamesReachAllowPrefixesOnly(t *testing.T) {
	t.Parallel()
	inside, forbidden := pair(t)
	target := "127.0.0.2"
	var mu sync.Mutex
	_, resolver := newNameServer(t, func(string, int) answer {
		mu.Lock()
		defer mu.Unlock()
		return answer{addrs: addrs(target)}
	})
	point := func(to string) {
		mu.Lock()
		defer mu.Unlock()
		target = to
	}
	g := newGuard(t, insideOnly)
	g.Resolver = resolver
	port := strconv.Itoa(int(inside.addr.Port()))
	names := []string{"receiver", "receiver.", "db.internal", "hook.example.com", "hook.example.com.", "HOOK.example.com"}
	for _, host := range names {
		point("127.0.0.2")
		conn, err := g.DialContext(t.Context(), "tcp", host+":"+port)
		require.NoError(t, err, host)
		require.NoError(t, conn.Close())
		point("127.0.0.1")
		_, err = g.DialContext(t.Context(), "tcp", host+":"+port)
		requireBlocked(t, err)
	}
	// A public address is no home for such a name, and another port than the allowed ones none for any.
	point("93.184.216.34")
	_, err := g.DialContext(t.Context(), "tcp", "db.internal:443")
	requireBlocked(t, err)
	_, err = g.DialContext(t.Context(), "tcp", hook(inside.addr.Port()))
	requireBlocked(t, err)
	require.Zero(t, forbidden.hits.Load())
}

// The dialers are the boundary: they refuse also what the choice of addresses should have left out.
func TestDialersRefuseByThemselves(t *testing.T) {
	t.Parallel()
	inside, forbidden := pair(t)
	for _, dialer := range newGuard(t, insideOnly).Dialers() {
		for _, address := range []string{
			forbidden.addr.String(), hookOf("localhost", forbidden), hookOf("[::ffff:127.0.0.1]", forbidden),
			hookOf("0.0.0.0", forbidden),
		} {
			_, err := dialer.DialContext(t.Context(), "tcp", address)
			var blocked *netguard.Blocked
			require.ErrorAs(t, err, &blocked, address)
		}
		conn, err := dialer.DialContext(t.Context(), "tcp", inside.addr.String())
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	require.Zero(t, forbidden.hits.Load())
	_, err := newGuard(t, insideOnly).Dialers()[1].DialContext(t.Context(), "tcp", "93.184.216.34:443")
	var blocked *netguard.Blocked
	require.ErrorAs(t, err, &blocked, "an inner name has no public address")
	require.Equal(t, "93.184.216.34:443", blocked.Addr.String())
}

func TestLocalhostIsThisMachine(t *testing.T) {
	t.Parallel()
	_, target := pair(t)
	server, resolver := newNameServer(t, func(string, int) answer { return answer{addrs: addrs("127.0.0.2")} })
	address := ":" + strconv.Itoa(int(target.addr.Port()))

	g := newGuard(t, netguard.Policy{AllowPrefixes: prefixes("127.0.0.1/32")})
	g.Resolver = resolver
	for _, host := range []string{"localhost", "localhost.", "LocalHost", "a.localhost"} {
		conn, err := g.DialContext(t.Context(), "tcp", host+address)
		require.NoError(t, err, host)
		require.Equal(t, target.addr.String(), conn.RemoteAddr().String())
		require.NoError(t, conn.Close())
	}
	_, err := g.DialContext(t.Context(), "tcp6", "localhost"+address)
	requireBlocked(t, err)

	inside := newGuard(t, insideOnly)
	inside.Resolver = resolver
	_, err = inside.DialContext(t.Context(), "tcp", "localhost"+address)
	requireBlocked(t, err)
	require.Empty(t, server.names())
}

func TestAtMostEightAddressesAreDialled(t *testing.T) {
	t.Parallel()
	free, _ := pair(t) // a port that nobody has on the addresses below
	many := make([]netip.Addr, 300)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
	}
	many = append(many, addrs("::1", "10.0.0.1")...)
	_, resolver := newNameServer(t, func(string, int) answer { return answer{addrs: many} })
	g := newGuard(t, netguard.Policy{AllowPrefixes: prefixes("127.1.0.0/16")})
	g.Resolver = resolver
	var mu sync.Mutex
	dialled := make(map[string]int)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{ConnectStart: func(_, address string) {
		if strings.HasPrefix(address, "127.1.") {
			mu.Lock()
			dialled[address]++
			mu.Unlock()
		}
	}})
	_, err := g.DialContext(ctx, "tcp", hook(free.addr.Port()))
	var blocked *netguard.Blocked
	require.False(t, errors.As(err, &blocked), "the failure of the allowed ones: %v", err)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.Len(t, dialled, netguard.MaxTried)
	require.Zero(t, free.hits.Load())
}

func TestNameServerFailures(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]answer{
		"SERVFAIL": {rcode: rcodeFailure},
		"NXDOMAIN": {rcode: rcodeNoName},
		"empty":    {},
		"silent":   {none: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, resolver := newNameServer(t, func(string, int) answer { return say })
			g := newGuard(t, netguard.Policy{})
			g.Resolver = resolver
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := g.DialContext(ctx, "tcp", "hook.example.com:443")
			var dns *net.DNSError
			require.ErrorAs(t, err, &dns)
			require.Equal(t, name == "silent", dns.IsTimeout, "%v", err)
		})
	}
}

func TestFamilyOfTheNetwork(t *testing.T) {
	t.Parallel()
	inside, forbidden := pair(t)
	_, resolver := newNameServer(t, func(string, int) answer { return answer{addrs: addrs("127.0.0.2", "2001:db8::1")} })
	g := newGuard(t, insideOnly)
	g.Resolver = resolver
	conn, err := g.DialContext(t.Context(), "tcp4", hook(inside.addr.Port()))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = g.DialContext(t.Context(), "tcp6", hook(inside.addr.Port()))
	requireBlocked(t, err)
	require.Zero(t, forbidden.hits.Load())
}

func TestManyDialsAtOnce(t *testing.T) {
	t.Parallel()
	inside, forbidden := pair(t)
	_, resolver := newNameServer(t, func(name string, _ int) answer {
		if strings.HasPrefix(name, "bad") {
			return answer{addrs: addrs("127.0.0.1")}
		}
		return answer{addrs: addrs("127.0.0.1", "127.0.0.2")}
	})
	g := newGuard(t, insideOnly)
	g.Resolver = resolver
	var work sync.WaitGroup
	for i := range 50 {
		work.Go(func() {
			good := i%2 == 0
			address := fmt.Sprintf("bad%d.example.com:%d", i, inside.addr.Port())
			if good {
				address = fmt.Sprintf("good%d.example.com:%d", i, inside.addr.Port())
			}
			conn, err := g.DialContext(t.Context(), "tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			if good != (err == nil) {
				t.Errorf("%s: %v", address, err)
			}
		})
	}
	work.Wait()
	require.Zero(t, forbidden.hits.Load())
}
