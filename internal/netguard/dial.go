package netguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

const (
	dialTime = 5 * time.Second        // for lookup and connect together
	maxTried = 8                      // addresses of a name that are dialled
	stagger  = 300 * time.Millisecond // after which the next one is dialled as well; as in net.Dialer
)

// DialContext is for http.Transport.DialContext. It takes 5 s at most, lookup included, and less if ctx ends before.
//
// A name is looked up as an absolute one, so that no search list completes it. A name of one label that only a hosts
// file has is not found therefore. localhost and the names below it are 127.0.0.1 and ::1 without a lookup.
//
// Of a name's addresses, those that the policy allows are dialled: at most 8, IPv6 and IPv4 in turn, the next one when
// the last one failed or took 300 ms. The first connection wins.
//
// The error is a *Blocked if the policy left nothing to dial. Otherwise it is of the first allowed address that failed,
// or of the lookup, and always a *net.OpError as that of net.Dialer.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := split(network, address)
	if err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		dialer := g.dialer(namePublic)
		dialer.Timeout = dialTime
		return dial(ctx, dialer, network, netip.AddrPortFrom(addr, port))
	}
	kind, _ := g.judgeName(host)
	if kind == nameRefused {
		return nil, &Blocked{Rule: ruleName}
	}
	if len(g.allow) == 0 && !slices.Contains(g.ports, port) {
		return nil, &Blocked{Rule: rulePort} // whatever the address: spare the lookup
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	addrs, err := g.lookup(ctx, network, host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	check := g.Check
	if kind == nameInner {
		check = g.checkInside
	}
	tries, err := choose(addrs, port, check)
	if err != nil {
		return nil, err
	}
	dialer := g.dialer(kind)
	return race(ctx, tries, func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		return dial(ctx, dialer, network, addr)
	})
}

// dialer returns a dialer that connects to nothing the policy refuses, whatever it is told to dial.
func (g *Guard) dialer(kind name) *net.Dialer {
	if kind == nameInner {
		return &net.Dialer{Control: g.controlInside}
	}
	return &net.Dialer{Control: g.Control}
}

// split takes apart what a transport dials: a host and the number of a port.
func split(network, address string) (host string, port uint16, err error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return "", 0, &Blocked{Rule: ruleUnknown}
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, &Blocked{Rule: ruleUnknown}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, &Blocked{Rule: rulePort}
	}
	return host, uint16(n), nil
}

// lookup asks for the absolute name. Of localhost nobody is asked, as RFC 6761 wants it: a hosts file that Go reads has
// it without the dot, and a name server need not know it.
func (g *Guard) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if isLocalhost(bare(host)) {
		switch both := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}; network {
		case "tcp4":
			return both[:1], nil
		case "tcp6":
			return both[1:], nil
		default:
			return both, nil
		}
	}
	resolver := g.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	if host[len(host)-1] != '.' {
		host += "."
	}
	return resolver.LookupNetIP(ctx, "ip"+network[len("tcp"):], host)
}

// choose picks the addresses to try: allowed, each once, the families in turn. That those which are not allowed are
// left out here spares their sockets, and keeps 300 bad answers from hiding a good one; Control judges the rest again.
// The error is the verdict on the first address, if all are blocked.
func choose(addrs []netip.Addr, port uint16, check func(netip.AddrPort) error) ([]netip.AddrPort, error) {
	var families [2][]netip.AddrPort // the first one's is that of the first allowed address
	var blocked error
	for _, addr := range addrs {
		try := netip.AddrPortFrom(addr.Unmap(), port)
		if err := check(try); err != nil {
			if blocked == nil {
				blocked = err
			}
			continue
		}
		i := 0
		if len(families[0]) > 0 && families[0][0].Addr().Is4() != try.Addr().Is4() {
			i = 1
		}
		if len(families[i]) < maxTried && !slices.Contains(families[i], try) {
			families[i] = append(families[i], try)
		}
	}
	var tries []netip.AddrPort
	for i := range maxTried {
		for _, family := range families {
			if i < len(family) && len(tries) < maxTried {
				tries = append(tries, family[i])
			}
		}
	}
	if len(tries) > 0 {
		return tries, nil
	}
	if blocked == nil {
		blocked = &Blocked{Rule: ruleNone}
	}
	return nil, blocked
}

// dial connects to one address, and takes a verdict of Control out of the error that the dialer puts around it: that
// error holds the address.
func dial(ctx context.Context, dialer *net.Dialer, network string, addr netip.AddrPort) (net.Conn, error) {
	conn, err := dialer.DialContext(ctx, network, addr.String())
	if err == nil {
		return conn, nil
	}
	var blocked *Blocked
	if errors.As(err, &blocked) {
		return nil, blocked
	}
	return nil, err
}

type dialFunc func(context.Context, netip.AddrPort) (net.Conn, error)

// race dials the addresses in order, each next one when the last one failed or the stagger is over, and returns the
// first connection, or the error that came first. It closes what comes too late, and returns when all dials have.
func race(ctx context.Context, addrs []netip.AddrPort, dial dialFunc) (net.Conn, error) {
	if len(addrs) == 1 {
		return dial(ctx, addrs[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, len(addrs))
	next, running := 0, 0
	start := func() {
		addr := addrs[next]
		next++
		running++
		go func() {
			conn, err := dial(ctx, addr)
			results <- result{conn, err}
		}()
	}
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	start()
	var winner net.Conn
	var first error
	for running > 0 {
		select {
		case <-timer.C:
		case r := <-results:
			running--
			switch {
			case r.err != nil && first == nil:
				first = r.err
			case r.err == nil && winner == nil:
				winner = r.conn
				cancel()
			case r.err == nil:
				_ = r.conn.Close()
			}
		}
		if next < len(addrs) && winner == nil && ctx.Err() == nil {
			start()
			timer.Reset(stagger)
		}
	}
	if winner != nil {
		return winner, nil
	}
	return nil, first
}
