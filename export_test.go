package postrider

import (
	"context"
	"net"
)

// MaxAnswer is how many bytes of a connection are read for one answer.
const MaxAnswer = maxAnswer

// DialBy makes the sender dial by the function, past the guard. It is called before the first Send.
func (s *HTTPSender) DialBy(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	s.dial = dial
}

// Own returns the sender that New has made.
func (d *Dispatcher) Own() *HTTPSender { return d.own }
