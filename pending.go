package postrider

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// countEvery is how old the count of open deliveries may be that Config.MaxPending is held against.
const countEvery = time.Second

// pending is how many deliveries are open, as far as is known without asking the store: what it counted last, and what
// was made since. What has ended since is in the next count.
type pending struct {
	mu    sync.Mutex // guards what follows
	open  int64      // as of the last count
	at    time.Time  // of the last count; zero: there was none
	made  int64      // ever, by this dispatcher
	until int64      // the part of made that was there when the last count began
}

// room returns ErrFull while Config.MaxPending deliveries are open. It asks the store when what it knows is old, and
// before it refuses.
func (d *Dispatcher) room(ctx context.Context) error {
	most := int64(d.cfg.MaxPending)
	if most == 0 {
		return nil
	}
	p := &d.pending
	p.mu.Lock()
	known := !p.at.IsZero() && time.Since(p.at) < countEvery && p.open+p.made-p.until < most
	made := p.made
	p.mu.Unlock()
	if known {
		return nil
	}
	now := time.Now()
	s, err := d.Stats(ctx, StatsQuery{})
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.open, p.at, p.until = s.Open(), now, made
	p.mu.Unlock()
	if s.Open() >= most {
		return fmt.Errorf("%w: %d deliveries are open, Config.MaxPending is %d", ErrFull, s.Open(), most)
	}
	return nil
}

// made notes deliveries that were made.
func (d *Dispatcher) made(receipts []Receipt) {
	if d.cfg.MaxPending == 0 {
		return
	}
	n := 0
	for i := range receipts {
		n += len(receipts[i].Deliveries)
	}
	d.pending.mu.Lock()
	d.pending.made += int64(n)
	d.pending.mu.Unlock()
}
