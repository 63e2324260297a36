package netguard

import (
	"net/netip"
	"slices"
	"syscall"
)

// Blocked is the error for what the policy does not allow. It is final for the address or name, not for a name's next
// answer.
type Blocked struct {
	// Rule is why, for a log: a fixed sentence, but it tells how an inner name resolves.
	Rule string
	// Addr is what was refused, for a log. It is zero if a name was refused, or something that does not parse.
	Addr netip.AddrPort
}

// Error returns the same text for all: with a reason or an address, whoever chose the URL could map the network.
func (e *Blocked) Error() string { return "netguard: address not allowed" }

// Rules that are not about a block of the table.
const (
	ruleUnknown = "not an address of TCP"
	ruleZone    = "has a zone"
	ruleDenied  = "in DenyPrefixes"
	rulePort    = "port not allowed"
	ruleName    = "name not allowed"
	ruleInside  = "name of an inner network, address outside AllowPrefixes"
	ruleNone    = "no address of the family"
)

// Check judges an address and a port as a dial would. An error is a *Blocked.
func (g *Guard) Check(addr netip.AddrPort) error {
	rule, allowed := g.judge(addr.Addr())
	switch {
	case rule != "":
	case addr.Port() == 0, !allowed && !slices.Contains(g.ports, addr.Port()):
		rule = rulePort
	default:
		return nil
	}
	return &Blocked{Rule: rule, Addr: addr}
}

// Control is for net.Dialer.Control. Its error is a *Blocked, which the dialer wraps in a *net.OpError that holds the
// address; DialContext takes it out again.
func (g *Guard) Control(network, address string, _ syscall.RawConn) error {
	addr, err := parse(network, address)
	if err != nil {
		return err
	}
	return g.Check(addr)
}

// controlInside is Control for a name that has no meaning outside: only AllowPrefixes will do.
func (g *Guard) controlInside(network, address string, _ syscall.RawConn) error {
	addr, err := parse(network, address)
	if err != nil {
		return err
	}
	return g.checkInside(addr)
}

func (g *Guard) checkInside(addr netip.AddrPort) error {
	if err := g.Check(addr); err != nil {
		return err
	}
	if _, allowed := g.judge(addr.Addr()); !allowed {
		return &Blocked{Rule: ruleInside, Addr: addr}
	}
	return nil
}

// parse takes what a dialer hands to Control. IPv4 in its mapped form may come under either network.
func parse(network, address string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return addr, &Blocked{Rule: ruleUnknown}
	}
	if network != "tcp6" && (network != "tcp4" || !addr.Addr().Unmap().Is4()) {
		return addr, &Blocked{Rule: ruleUnknown, Addr: addr}
	}
	return addr, nil
}

// judge says why the address is refused, or whether AllowPrefixes names it. The zone comes first: no prefix contains
// an address with a zone, so every rule below would be silent about it.
func (g *Guard) judge(addr netip.Addr) (rule string, allowed bool) {
	if !addr.IsValid() {
		return ruleUnknown, false
	}
	if addr.Zone() != "" {
		return ruleZone, false
	}
	addr = addr.Unmap()
	if contain(g.deny, addr) {
		return ruleDenied, false
	}
	if contain(g.allow, addr) {
		return "", true
	}
	return special(addr), false
}

func contain(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}
