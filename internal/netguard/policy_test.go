package netguard_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

// newGuard returns a guard for a policy that must be right.
func newGuard(t testing.TB, p netguard.Policy) *netguard.Guard {
	t.Helper()
	g, err := netguard.New(p)
	require.NoError(t, err)
	return g
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func TestPolicyReportsEveryProblem(t *testing.T) {
	t.Parallel()
	p := netguard.Policy{
		AllowPrefixes: append(prefixes("10.0.0.1/8", "10.0.0.0/8", "::ffff:10.0.0.0/104"), netip.Prefix{}),
		DenyPrefixes:  append(prefixes("fd00::1/8"), netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 90)),
		AllowPorts:    []uint16{443, 0},
	}
	_, err := netguard.New(p)
	require.EqualError(t, err, "netguard: "+
		"AllowPrefixes[0] is 10.0.0.1/8, want 10.0.0.0/8 or 10.0.0.1/32; "+
		"AllowPrefixes[2] is ::ffff:10.0.0.0/104, want 10.0.0.0/8: such addresses are judged as IPv4; "+
		"AllowPrefixes[3] is not a prefix, want one such as 10.0.0.0/8 or fd00::/8; "+
		"DenyPrefixes[0] is fd00::1/8, want fd00::/8 or fd00::1/128; "+
		"DenyPrefixes[1] is ::ffff:10.0.0.0/90, want an IPv4 prefix: such addresses are judged as IPv4; "+
		"AllowPorts[1] is 0, want 1 to 65535")
	require.Len(t, p.Check(), 6)

	_, err = netguard.New(netguard.Policy{DenyPrefixes: make([]netip.Prefix, 1001), AllowPorts: make([]uint16, 1001)})
	require.ErrorContains(t, err, "DenyPrefixes has 1001 prefixes, want at most 1000; "+
		"AllowPorts has 1001 ports, want at most 1000")
}

func TestPolicyIsCopied(t *testing.T) {
	t.Parallel()
	p := netguard.Policy{
		AllowPrefixes: prefixes("10.0.0.0/8"),
		DenyPrefixes:  prefixes("8.8.8.8/32"),
		AllowPorts:    []uint16{443},
	}
	g := newGuard(t, p)
	p.AllowPrefixes[0], p.DenyPrefixes[0], p.AllowPorts[0] = netip.Prefix{}, netip.Prefix{}, 1
	require.NoError(t, g.Check(netip.MustParseAddrPort("10.0.0.1:443")))
	require.NoError(t, g.Check(netip.MustParseAddrPort("8.8.4.4:443")))
	require.Error(t, g.Check(netip.MustParseAddrPort("8.8.8.8:443")))
}

func TestZeroGuardRefusesEverything(t *testing.T) {
	t.Parallel()
	var g netguard.Guard
	require.Error(t, g.Check(netip.MustParseAddrPort("93.184.216.34:443")))
	require.NotEmpty(t, g.CheckURL("https://example.com/"))
	_, err := g.DialContext(t.Context(), "tcp", "example.com:443")
	var blocked *netguard.Blocked
	require.ErrorAs(t, err, &blocked)
}
