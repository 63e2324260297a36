package netguard

import "net"

// For the tests: the parts of a dial that need no socket, and its limits.
var (
	Choose = choose
	Race   = race
)

const (
	DialTime = dialTime
	MaxTried = maxTried
	Stagger  = stagger
)

// Dialers returns the dialers for public and for inner names.
func (g *Guard) Dialers() []*net.Dialer {
	return []*net.Dialer{g.dialer(namePublic), g.dialer(nameInner)}
}
