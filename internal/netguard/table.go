package netguard

import "net/netip"

// Registries is the date of the registries that the table follows: IANA's IPv4 Special-Purpose Address Registry and
// IPv6 Special-Purpose Address Registry, both last updated on this day.
//
//	https://www.iana.org/assignments/iana-ipv4-special-registry/
//	https://www.iana.org/assignments/iana-ipv6-special-registry/
const Registries = "2025-10-09"

// Block is a part of the address space that is not dialled, unless AllowPrefixes opens it.
type Block struct {
	Prefix netip.Prefix
	Why    string // what it is for, and where that is written
}

var (
	// global6 is all of IPv6 that is in use on the internet. As an allow-list it settles what a list of blocks would
	// forget: ::, ::1, IPv4 inside IPv6 in its old forms (::/96, ::ffff:0:0:0/96), NAT64 (64:ff9b::/96 and
	// 64:ff9b:1::/48), discard and dummy (100::/64, 100:0:0:1::/64), segment routing (5f00::/16), unique local
	// (fc00::/7), link-local (fe80::/10), site-local (fec0::/10), multicast (ff00::/8), and all that is not assigned.
	global6 = netip.MustParsePrefix("2000::/3")

	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// outside6 is the reason for everything outside global6.
const outside6 = "outside 2000::/3, the IPv6 addresses of the internet"

// blocks4 is the IPv4 registry, and three entries that are not in it. A block of the registry that lies inside another
// is left out, also if it is marked as globally reachable: nobody receives webhooks on an anycast address for port
// mapping (192.0.0.9) or relays (192.0.0.10). So are the blocks of services that take no HTTP from strangers.
var blocks4 = []Block{
	block("0.0.0.0/8", "this network (RFC 791): Linux takes 0.0.0.0 for this machine"),
	block("10.0.0.0/8", "private use (RFC 1918)"),
	block("100.64.0.0/10", "shared address space behind a carrier's NAT (RFC 6598): also metadata and overlay networks"),
	block("127.0.0.0/8", "loopback (RFC 1122)"),
	// Not in the registry. A public address on paper; in Azure it is the host's own service for its guests.
	block("168.63.129.16/32", "Azure's host service for virtual machines"),
	block("169.254.0.0/16", "link-local (RFC 3927): metadata and credentials of clouds"),
	block("172.16.0.0/12", "private use (RFC 1918)"),
	block("192.0.0.0/24", "protocol assignments (RFC 6890): also a cloud's metadata, 192.0.0.192"),
	block("192.0.2.0/24", "documentation (RFC 5737)"),
	block("192.31.196.0/24", "AS112, a sink for DNS (RFC 7535)"),
	block("192.52.193.0/24", "multicast tunnels, AMT (RFC 7450)"),
	block("192.88.99.0/24", "6to4 relays, deprecated (RFC 7526)"),
	block("192.168.0.0/16", "private use (RFC 1918)"),
	block("192.175.48.0/24", "AS112, a sink for DNS (RFC 7534)"),
	block("198.18.0.0/15", "benchmarks (RFC 2544)"),
	block("198.51.100.0/24", "documentation (RFC 5737)"),
	block("203.0.113.0/24", "documentation (RFC 5737)"),
	// Not in this registry, but in that of multicast.
	block("224.0.0.0/4", "multicast (RFC 5771)"),
	block("240.0.0.0/4", "reserved (RFC 1112), with the broadcast address (RFC 919)"),
}

// blocks6 is what the IPv6 registry holds within global6. Those of its blocks that carry an IPv4 address could bring a
// packet to that address: 2001::/32 (Teredo, in 2001::/23) and 2002::/16.
var blocks6 = []Block{
	block("2001::/23", "protocol assignments (RFC 2928): Teredo, benchmarks, ORCHID and others"),
	block("2001:db8::/32", "documentation (RFC 3849)"),
	block("2002::/16", "6to4 (RFC 3056): carries an IPv4 address"),
	block("2620:4f:8000::/48", "AS112, a sink for DNS (RFC 7534)"),
	block("3fff::/20", "documentation (RFC 9637)"),
}

func block(prefix, why string) Block { return Block{Prefix: netip.MustParsePrefix(prefix), Why: why} }

// Blocks returns a copy of the table: IPv4, then what is closed within Global6.
func Blocks() []Block { return append(append([]Block{}, blocks4...), blocks6...) }

// Global6 returns the prefix outside which no IPv6 address is dialled.
func Global6() netip.Prefix { return global6 }

// special says why an address is not public, or returns nothing. The address has no zone and is not IPv4 in IPv6.
func special(addr netip.Addr) string {
	blocks := blocks4
	if !addr.Is4() {
		if !global6.Contains(addr) {
			return outside6
		}
		blocks = blocks6
	}
	for i := range blocks {
		if blocks[i].Prefix.Contains(addr) {
			return blocks[i].Why
		}
	}
	return ""
}
