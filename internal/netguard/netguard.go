// Package netguard keeps requests to addresses that a stranger chose away from what only this machine can reach.
//
// There are two checks, and one of them is the boundary:
//
//   - [Guard.Control] judges the address that is dialled, in [net.Dialer.Control], after every lookup and right before
//     the connect. Nothing stands between its verdict and the connection, so a name that changes its answer, a mixed
//     answer or an odd form of an address makes no difference. Whatever it does not understand, it refuses.
//   - [Guard.CheckURL] judges a text when it is stored. It is there for people: it finds early what the dial would
//     refuse later, and says why. A URL that it lets through is judged again with every dial.
//
// An address may be dialled if it is public: IPv4 less the blocks of a table, IPv6 within 2000::/3 less the blocks of
// a table, on one of the allowed ports. [Policy.AllowPrefixes] opens more, [Policy.DenyPrefixes] closes more.
//
// A proxy hides the address from the guard, as would another dialer. A transport must have neither.
package netguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Limits of a Policy.
const (
	maxPrefixes = 1000
	maxPorts    = 1000
)

// ports are allowed unless the policy has its own: those of the web, and the two that stand in for them.
var ports = []uint16{80, 443, 8080, 8443}

// Policy says what may be dialled. The zero value is the one for the internet.
type Policy struct {
	// AllowPrefixes may be dialled whatever the table says about them, on every port, and under names that only make
	// sense inside: of one label, or with an ending such as .internal. It is meant for receivers of one's own, such
	// as 10.1.0.0/16 or 127.0.0.1/32. With 64:ff9b::/96 the machine's NAT64 gateway decides what can be reached.
	AllowPrefixes []netip.Prefix
	// DenyPrefixes are never dialled: they go before AllowPrefixes. One's own public addresses belong here.
	DenyPrefixes []netip.Prefix
	// AllowPorts are the ports that may be dialled outside AllowPrefixes; 80, 443, 8080 and 8443 if empty.
	AllowPorts []uint16
	// RequireHTTPS refuses http in CheckURL, also for AllowPrefixes. The dial cannot see it.
	RequireHTTPS bool
}

// Codes of a Problem, for programs.
const (
	CodeRequired = "required"
	CodeFormat   = "bad_format"
	CodeRange    = "out_of_range"
)

// Problem is one thing that is wrong with a policy or a URL.
type Problem struct {
	Name   string // the policy's field, as in AllowPrefixes[2]; empty for a URL
	Reason string // the rest of the sentence, with the value and the bound; of a URL no more than scheme, host and port
	Code   string // one of the Code constants
}

// problems collects what is wrong with a value.
type problems []Problem

func (p *problems) add(name, code, format string, args ...any) {
	*p = append(*p, Problem{Name: name, Reason: fmt.Sprintf(format, args...), Code: code})
}

// Check returns every problem of the policy, and none if New takes it.
func (p Policy) Check() []Problem {
	var found problems
	checkPrefixes(&found, "AllowPrefixes", p.AllowPrefixes)
	checkPrefixes(&found, "DenyPrefixes", p.DenyPrefixes)
	if len(p.AllowPorts) > maxPorts {
		found.add("AllowPorts", CodeRange, "has %d ports, want at most %d", len(p.AllowPorts), maxPorts)
	}
	for i, port := range p.AllowPorts {
		if port == 0 {
			found.add(fmt.Sprintf("AllowPorts[%d]", i), CodeRange, "is 0, want 1 to 65535")
		}
	}
	return found
}

// checkPrefixes refuses what looks like a rule and is none: an address that is judged as IPv4 never matches a prefix
// in mapped form. Bits behind the prefix are more likely a slip than a wish for the whole block.
func checkPrefixes(found *problems, name string, prefixes []netip.Prefix) {
	if len(prefixes) > maxPrefixes {
		found.add(name, CodeRange, "has %d prefixes, want at most %d", len(prefixes), maxPrefixes)
		return
	}
	for i, prefix := range prefixes {
		field := fmt.Sprintf("%s[%d]", name, i)
		addr := prefix.Addr()
		switch {
		case !prefix.IsValid():
			found.add(field, CodeFormat, "is not a prefix, want one such as 10.0.0.0/8 or fd00::/8")
		case addr.Is4In6() && prefix.Bits() < 96:
			found.add(field, CodeFormat, "is %v, want an IPv4 prefix: such addresses are judged as IPv4", prefix)
		case addr.Is4In6():
			want := netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96).Masked()
			found.add(field, CodeFormat, "is %v, want %v: such addresses are judged as IPv4", prefix, want)
		case prefix != prefix.Masked():
			found.add(field, CodeFormat, "is %v, want %v or %v", prefix, prefix.Masked(), netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
}

// Guard is a policy ready for use, and may be used from many goroutines. It comes from New; the zero Guard refuses
// everything.
type Guard struct {
	// Resolver looks up names; net.DefaultResolver if nil. It is set before the first dial. What the resolver itself
	// dials is not judged: name servers are often private.
	Resolver *net.Resolver

	allow, deny []netip.Prefix
	ports       []uint16
	https       bool // only
	loopback    bool // AllowPrefixes reaches a loopback address
}

// New returns a guard for the policy, of which it keeps nothing, or an error with every problem of it.
func New(p Policy) (*Guard, error) {
	if found := p.Check(); len(found) > 0 {
		texts := make([]string, len(found))
		for i, problem := range found {
			texts[i] = problem.Name + " " + problem.Reason
		}
		return nil, errors.New("netguard: " + strings.Join(texts, "; "))
	}
	g := &Guard{
		allow: slices.Clone(p.AllowPrefixes),
		deny:  slices.Clone(p.DenyPrefixes),
		ports: slices.Clone(p.AllowPorts),
		https: p.RequireHTTPS,
	}
	if len(g.ports) == 0 {
		g.ports = slices.Clone(ports)
	}
	g.loopback = slices.ContainsFunc(g.allow, func(prefix netip.Prefix) bool {
		return prefix.Overlaps(loopback4) || prefix.Overlaps(loopback6)
	})
	return g, nil
}
