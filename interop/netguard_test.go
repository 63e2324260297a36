package interop_test

import (
	"net/netip"
	"slices"
	"testing"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

// difference is a block in which the two verdicts are not the same, and why that is right.
type difference struct {
	block  netip.Prefix
	theirs bool // that they allow it
	ours   bool
	why    string
}

// differences are all of them: an address with another verdict outside these blocks fails the test, and so does a
// block without one.
var differences = []difference{
	{
		block: netip.MustParsePrefix("168.63.129.16/32"), theirs: true, ours: false,
		why: "Azure's host service for virtual machines: in no registry, but nobody's receiver and a host's secrets",
	},
	{
		block: netip.MustParsePrefix("::ffff:0:0/96"), theirs: false, ours: true,
		why: "IPv4 in its mapped form: dialled as IPv4, so judged as IPv4; they refuse it as not global. " +
			"What is closed as IPv4 is closed here as well",
	},
}

// TestTableAgainstAnother compares every place at which one of the two tables could change its mind: the first and the
// last address of each prefix of both, their neighbours, and IPv4 in its mapped form.
func TestTableAgainstAnother(t *testing.T) {
	t.Parallel()
	ports := []uint16{80, 443, 8080, 8443}
	theirs := ssrf.New(ssrf.WithPorts(ports...))
	ours, err := netguard.New(netguard.Policy{})
	require.NoError(t, err)

	found := make(map[netip.Prefix]int)
	for _, addr := range edges() {
		for _, port := range ports {
			target := netip.AddrPortFrom(addr, port)
			network := "tcp4"
			if addr.Is6() {
				network = "tcp6"
			}
			theyAllow := theirs.Safe(network, target.String(), nil) == nil
			weAllow := ours.Control(network, target.String(), nil) == nil
			if theyAllow == weAllow {
				continue
			}
			i := slices.IndexFunc(differences, func(d difference) bool {
				return d.block.Contains(addr) && d.theirs == theyAllow && d.ours == weAllow
			})
			require.GreaterOrEqual(t, i, 0, "%v: they allow %v, we %v", target, theyAllow, weAllow)
			found[differences[i].block]++
		}
		if addr.Is4In6() {
			mapped, plain := netip.AddrPortFrom(addr, 443), netip.AddrPortFrom(addr.Unmap(), 443)
			require.Equal(t, ours.Check(plain) == nil, ours.Check(mapped) == nil, "%v", addr)
		}
	}
	for _, d := range differences {
		require.NotZero(t, found[d.block], "%v is no difference any more", d.block)
	}
}

// edges returns the addresses at and next to the ends of every prefix of both tables, sorted, each once.
func edges() (list []netip.Addr) {
	prefixes := []netip.Prefix{
		netguard.Global6(), ssrf.IPv6GlobalUnicast, ssrf.IPv6NAT64Prefix,
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("::ffff:0:0/96"),
	}
	for _, b := range netguard.Blocks() {
		prefixes = append(prefixes, b.Prefix)
	}
	prefixes = append(append(prefixes, ssrf.IPv4DeniedPrefixes...), ssrf.IPv6DeniedPrefixes...)
	for _, d := range differences {
		prefixes = append(prefixes, d.block)
	}
	for _, prefix := range prefixes {
		first, last := prefix.Masked().Addr(), lastOf(prefix)
		for _, addr := range []netip.Addr{first.Prev(), first, first.Next(), last.Prev(), last, last.Next()} {
			if addr.IsValid() { // there is none before 0.0.0.0 or behind ffff:...
				list = append(list, addr, netip.AddrFrom16(addr.As16()))
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// lastOf returns the last address of a prefix.
func lastOf(prefix netip.Prefix) netip.Addr {
	b := prefix.Masked().Addr().AsSlice()
	for i := prefix.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
