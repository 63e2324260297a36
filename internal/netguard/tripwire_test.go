package netguard_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

// localAddrs returns the addresses of this machine that the guard must keep: all but those that are public.
func localAddrs(t *testing.T) (list []netip.Addr) {
	t.Helper()
	interfaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range interfaces {
		assigned, err := i.Addrs()
		require.NoError(t, err)
		for _, a := range assigned {
			prefix, err := netip.ParsePrefix(a.String())
			require.NoError(t, err)
			addr := prefix.Addr()
			if addr.IsLinkLocalUnicast() && addr.Is6() {
				addr = addr.WithZone(i.Name)
			}
			if !public(addr) {
				list = append(list, addr)
			}
		}
	}
	return list
}

// tripwires listens on every local address: on the default ports, where they can be had, and on 20 others.
func tripwires(t *testing.T, local []netip.Addr) (traps []*trap, ports []uint16) {
	t.Helper()
	add := func(port uint16) bool {
		before := len(traps)
		for _, addr := range local {
			if trap := listen(t, netip.AddrPortFrom(addr, port).String()); trap != nil {
				traps = append(traps, trap)
				port = trap.addr.Port() // the same one on the next address
			}
		}
		if len(traps) > before {
			ports = append(ports, port)
		}
		return len(traps) > before
	}
	for _, port := range []uint16{80, 443, 8080, 8443} {
		if !add(port) {
			ports = append(ports, port) // somebody else has it: dialled all the same
		}
	}
	for range 20 {
		require.True(t, add(0))
	}
	return traps, ports
}

// forms returns the ways to write an address as the host of a URL.
func forms(addr netip.Addr) []string {
	if addr.Is6() {
		return []string{"[" + strings.ReplaceAll(addr.String(), "%", "%25") + "]"}
	}
	b := addr.As4()
	whole := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	return []string{
		addr.String(),
		addr.String() + ".",
		"[::ffff:" + addr.String() + "]",
		"[::" + addr.String() + "]",
		"[64:ff9b::" + addr.String() + "]",
		strconv.FormatUint(whole, 10),
		"0x" + strconv.FormatUint(whole, 16),
		"0" + strconv.FormatUint(whole, 8),
		strconv.Itoa(int(b[0])) + "." + strconv.FormatUint(whole&0xffffff, 10),
	}
}

func transport(g *netguard.Guard) *http.Transport {
	return &http.Transport{Proxy: nil, DialContext: g.DialContext, DisableKeepAlives: true}
}

// get makes one request and returns its error.
func get(ctx context.Context, t *testing.T, via *http.Transport, target *url.URL) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := (&http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: http.Header{}}).WithContext(ctx)
	resp, err := via.RoundTrip(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	return err
}

func TestTripwiresAreNeverHit(t *testing.T) {
	t.Parallel()
	local := localAddrs(t)
	traps, ports := tripwires(t, local)
	require.NotEmpty(t, traps)
	// The ports are allowed, so that only the addresses are in the way.
	g := newGuard(t, netguard.Policy{AllowPorts: append(slices.Clone(ports), 1)})
	var answers []netip.Addr
	for _, addr := range local {
		answers = append(answers, addr.WithZone(""))
		if addr.Is4() {
			answers = append(answers, netip.AddrFrom16(addr.As16()))
		}
	}
	_, resolver := newNameServer(t, func(name string, _ int) answer {
		if strings.HasPrefix(name, "all") {
			return answer{addrs: append(slices.Clone(answers), addrs("0.0.0.0", "::")...)}
		}
		return answer{addrs: answers}
	})
	g.Resolver = resolver
	via := transport(g)
	defer via.CloseIdleConnections()

	hosts := []string{
		"localhost", "a.localhost", "ip6-localhost", "hook.example.com", "all.example.com.", "0.0.0.0", "[::]", "0", "127.1",
	}
	for _, addr := range local {
		hosts = append(hosts, forms(addr)...)
	}
	for _, host := range hosts {
		for _, port := range ports {
			target := &url.URL{Scheme: "http", Host: host + ":" + strconv.Itoa(int(port)), Path: "/"}
			requireBlocked(t, get(t.Context(), t, via, target))
		}
	}
	for _, c := range cases[urlCase](t, "urls.json") {
		target, err := url.Parse(c.URL)
		if c.Allow || err != nil || target.Host == "" {
			continue // what is allowed would leave this machine
		}
		target.Scheme = "http"
		require.Error(t, get(t.Context(), t, via, target), c.URL)
	}
	for _, trap := range traps {
		require.Zero(t, trap.hits.Load(), "%v was hit", trap.addr)
	}
}

// Not parallel: the environment is everybody's.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	proxy := listen(t, "127.0.0.1:0")
	require.NotNil(t, proxy)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "http://"+proxy.addr.String())
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	var reached atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer receiver.Close()
	inside := netip.MustParseAddrPort(receiver.Listener.Addr().String())

	_, resolver := newNameServer(t, func(name string, _ int) answer {
		if strings.HasPrefix(name, "bad") {
			return answer{addrs: addrs("10.0.0.1", "169.254.169.254", "::1")}
		}
		return answer{addrs: []netip.Addr{inside.Addr()}}
	})
	g := newGuard(t, netguard.Policy{AllowPrefixes: []netip.Prefix{netip.PrefixFrom(inside.Addr(), 32)}})
	g.Resolver = resolver
	via := transport(g)
	defer via.CloseIdleConnections()
	port := strconv.Itoa(int(inside.Port()))
	require.NoError(t, get(t.Context(), t, via, &url.URL{Scheme: "http", Host: "hook.example.com:" + port, Path: "/"}))
	for _, target := range []string{"http://bad.example.com/", "https://bad.example.com/", "http://10.0.0.1/"} {
		u, err := url.Parse(target)
		require.NoError(t, err)
		requireBlocked(t, get(t.Context(), t, via, u))
	}
	require.EqualValues(t, 1, reached.Load())
	require.Zero(t, proxy.hits.Load())
}
