package netguard_test

import (
	"encoding/json"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

// cases reads a file of testdata.
func cases[T any](t testing.TB, file string) (list []T) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &list))
	return list
}

type dialCase struct {
	Network, Address string
	Allow            bool
	Why              string
}

func TestControlOnHostileDials(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{})
	for _, c := range cases[dialCase](t, "dials.json") {
		err := g.Control(c.Network, c.Address, nil)
		if c.Allow {
			require.NoError(t, err, "%s %q: %s", c.Network, c.Address, c.Why)
			continue
		}
		var blocked *netguard.Blocked
		require.ErrorAs(t, err, &blocked, "%s %q: %s", c.Network, c.Address, c.Why)
		require.Equal(t, "netguard: address not allowed", err.Error())
		require.NotEmpty(t, blocked.Rule)
	}
}

func TestPrefixesOfThePolicy(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{
		AllowPrefixes: prefixes("10.0.0.0/8", "127.0.0.1/32", "fe80::/10", "fd00::/8", "2001:db8::/32"),
		DenyPrefixes:  prefixes("10.9.0.0/16", "8.8.8.0/24", "2606:4700::/32", "::/3"),
		AllowPorts:    []uint16{443, 9000},
	})
	for addr, want := range map[string]bool{
		"10.0.0.1:22":               true,  // on every port
		"10.0.0.1:0":                false, // but not on none
		"[::ffff:10.0.0.1]:22":      true,
		"10.9.0.1:443":              false, // DenyPrefixes go first
		"[::ffff:10.9.0.1]:443":     false,
		"127.0.0.1:6379":            true,
		"127.0.0.2:443":             false,
		"192.168.0.1:443":           false, // the table still holds
		"8.8.8.8:443":               false,
		"8.8.4.4:443":               true,
		"8.8.4.4:9000":              true,
		"8.8.4.4:80":                false, // AllowPorts replaces the default
		"[fe80::1]:443":             true,
		"[fe80::1%eth0]:443":        false, // no prefix lifts a zone
		"[fd00::1]:1":               true,
		"[2001:db8::1]:1":           true,
		"[2606:4700:4700::1111]:80": false,
		"[2a00:1450::1]:443":        true,
		"[::1]:443":                 false,
	} {
		err := g.Check(netip.MustParseAddrPort(addr))
		require.Equal(t, want, err == nil, "%s: %v", addr, err)
	}
	require.Error(t, g.Check(netip.AddrPort{}))
}

func TestBlockedTextHasNoAddress(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{})
	_, err := g.DialContext(t.Context(), "tcp", "10.1.2.3:443")
	require.EqualError(t, err, "netguard: address not allowed")
	var blocked *netguard.Blocked
	require.ErrorAs(t, err, &blocked)
	require.Equal(t, netip.MustParseAddrPort("10.1.2.3:443"), blocked.Addr)
	require.Equal(t, "private use (RFC 1918)", blocked.Rule)

	// A plain dialer with the guard's Control wraps it; the type is still to be found.
	_, err = (&net.Dialer{Control: g.Control}).DialContext(t.Context(), "tcp", "10.1.2.3:443")
	require.ErrorAs(t, err, &blocked)
}

// closed is the oracle's own list: first and last address of what must not be dialled, written out by hand.
var closed = [][2]string{
	{"0.0.0.0", "0.255.255.255"},
	{"10.0.0.0", "10.255.255.255"},
	{"100.64.0.0", "100.127.255.255"},
	{"127.0.0.0", "127.255.255.255"},
	{"168.63.129.16", "168.63.129.16"},
	{"169.254.0.0", "169.254.255.255"},
	{"172.16.0.0", "172.31.255.255"},
	{"192.0.0.0", "192.0.0.255"},
	{"192.0.2.0", "192.0.2.255"},
	{"192.31.196.0", "192.31.196.255"},
	{"192.52.193.0", "192.52.193.255"},
	{"192.88.99.0", "192.88.99.255"},
	{"192.168.0.0", "192.168.255.255"},
	{"192.175.48.0", "192.175.48.255"},
	{"198.18.0.0", "198.19.255.255"},
	{"198.51.100.0", "198.51.100.255"},
	{"203.0.113.0", "203.0.113.255"},
	{"224.0.0.0", "255.255.255.255"},
	{"::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"},
	{"3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
}

// public is the oracle: numbers and comparisons only.
func public(addr netip.Addr) bool {
	if addr.Zone() != "" {
		return false
	}
	n, bits := number(addr)
	mapped := new(big.Int).Lsh(big.NewInt(0xffff), 32)
	if bits == 128 && new(big.Int).Rsh(n, 32).Cmp(new(big.Int).Rsh(mapped, 32)) == 0 {
		n, bits = n.Sub(n, mapped), 32
	}
	return !slices.ContainsFunc(closedNumbers, func(r numbers) bool {
		return r.bits == bits && n.Cmp(r.low) >= 0 && n.Cmp(r.high) <= 0
	})
}

type numbers struct {
	low, high *big.Int
	bits      int
}

// closedNumbers is closed as numbers.
var closedNumbers = func() (list []numbers) {
	for _, ends := range closed {
		low, bits := number(netip.MustParseAddr(ends[0]))
		high, _ := number(netip.MustParseAddr(ends[1]))
		list = append(list, numbers{low, high, bits})
	}
	return list
}()

func number(addr netip.Addr) (n *big.Int, bits int) {
	return new(big.Int).SetBytes(addr.AsSlice()), addr.BitLen()
}

func TestAddressesAgainstOracle(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{})
	agree := func(addr netip.Addr) {
		t.Helper()
		err := g.Check(netip.AddrPortFrom(addr, 443))
		require.Equal(t, public(addr), err == nil, "%v: %v", addr, err)
	}
	for _, ends := range closed {
		low, high := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
		for _, addr := range []netip.Addr{low, low.Next(), low.Prev(), high, high.Next(), high.Prev()} {
			if !addr.IsValid() {
				continue // before the first or behind the last
			}
			agree(addr)
			agree(netip.AddrFrom16(addr.As16())) // IPv4 in its mapped form
		}
	}
	for high := range 1 << 16 { // every IPv4 /16 at its first, a middle and its last address, and every IPv6 /16
		a, b := byte(high>>8), byte(high)
		agree(netip.AddrFrom4([4]byte{a, b, 0, 0}))
		agree(netip.AddrFrom4([4]byte{a, b, 99, 1}))
		agree(netip.AddrFrom4([4]byte{a, b, 255, 255}))
		agree(netip.AddrFrom16([16]byte{0: a, 1: b, 15: 1}))
	}
}

func FuzzCheck(f *testing.F) {
	for _, c := range cases[dialCase](f, "dials.json") {
		f.Add(c.Network, c.Address)
	}
	g := newGuard(f, netguard.Policy{})
	good := []uint16{80, 443, 8080, 8443}
	f.Fuzz(func(t *testing.T, network, address string) {
		err := g.Control(network, address, nil)
		addr, parseErr := netip.ParseAddrPort(address)
		fits := network == "tcp6" || network == "tcp4" && addr.Addr().Unmap().Is4()
		want := parseErr == nil && fits && slices.Contains(good, addr.Port()) && public(addr.Addr())
		require.Equal(t, want, err == nil, "%q %q: %v", network, address, err)
		if err != nil {
			require.Equal(t, "netguard: address not allowed", err.Error())
		}
	})
}

func FuzzAddress(f *testing.F) {
	for _, ends := range closed {
		f.Add(netip.MustParseAddr(ends[0]).AsSlice(), "")
		f.Add(netip.MustParseAddr(ends[1]).AsSlice(), "eth0")
	}
	g := newGuard(f, netguard.Policy{})
	f.Fuzz(func(t *testing.T, b []byte, zone string) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		addr = addr.WithZone(zone)
		err := g.Check(netip.AddrPortFrom(addr, 443))
		require.Equal(t, public(addr), err == nil, "%v: %v", addr, err)
		again := netip.AddrFrom16(addr.As16())
		if addr.Zone() == "" {
			require.Equal(t, err == nil, g.Check(netip.AddrPortFrom(again, 443)) == nil, "%v and %v", addr, again)
		}
	})
}
