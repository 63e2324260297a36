package postrider

import (
	"context"
	"time"
)

// timeLimit is the context of one attempt after the other, with a limit on the time of each. What every
// context.WithTimeout makes anew, a channel, a timer and more, it makes once, as long as no attempt takes too long.
//
// An attempt must be over, with all that watches its context, when the next one begins: so it is only for a sender that
// is known to keep no context, which is HTTPSender with its own transport.
type timeLimit struct {
	ctx   *limited
	stop  context.CancelFunc
	timer *time.Timer
}

// limited is a context that says of a timer's end that the deadline is exceeded. It does not say when that will be.
type limited struct{ context.Context }

// Err returns why the context has ended; nil if it has not.
func (c *limited) Err() error {
	if c.Context.Err() == nil {
		return nil
	}
	return context.Cause(c.Context)
}

// begin returns a context that ends with ctx, which is the same in every call, or after d. The attempt ends with end.
func (l *timeLimit) begin(ctx context.Context, d time.Duration) context.Context {
	if l.ctx != nil {
		l.timer.Reset(d)
		return l.ctx
	}
	inner, cancel := context.WithCancelCause(ctx)
	l.ctx, l.stop = &limited{inner}, func() { cancel(nil) }
	l.timer = time.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	return l.ctx
}

// end ends an attempt in time, or the context with it.
func (l *timeLimit) end() {
	if !l.timer.Stop() {
		l.close()
	}
}

// close ends the context.
func (l *timeLimit) close() {
	if l.ctx != nil {
		l.stop()
		l.timer.Stop()
		*l = timeLimit{}
	}
}
