package bench_test

import (
	"context"
	"errors"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// phase is one thing that is measured of every subject.
type phase struct {
	name     string
	emitters int  // goroutines that enqueue, at the same time as there is delivery if there is any
	batch    int  // events a call
	inFlight int  // requests; 64 if 0
	deliver  bool // until every event is acknowledged
	backlog  bool // delivery begins when all are enqueued, and only delivery is measured
	paced    bool // events come at a steady rate, and the time from emit to receipt is measured
}

var phases = []phase{
	{name: "enqueue, 16 goroutines", emitters: 16, batch: 1},
	{name: "enqueue, 64 goroutines", emitters: 64, batch: 1},
	{name: "enqueue batches of 100", emitters: 1, batch: 100},
	{name: "enqueue batches of 1000", emitters: 1, batch: 1000},
	{name: "drain, 16 in flight", emitters: 1, batch: 1000, inFlight: 16, deliver: true, backlog: true},
	{name: "drain, 64 in flight", emitters: 1, batch: 1000, deliver: true, backlog: true},
	{name: "drain, 256 in flight", emitters: 1, batch: 1000, inFlight: 256, deliver: true, backlog: true},
	{name: "both, 16 goroutines", emitters: 16, batch: 1, deliver: true},
	{name: "both, 64 goroutines", emitters: 64, batch: 1, deliver: true},
	{name: "latency", paced: true},
}

// result is what one run of a phase came to.
type result struct {
	usage
	events    int
	disk      int64           // bytes that the queue takes more than when it was empty
	latencies []time.Duration // of a paced phase, ascending
	floor     floor           // likewise
}

func (r result) rate() float64 { return float64(r.events) / r.took.Seconds() }

// size is how many events of n the phase takes of the subject; to show that it works, no more than it needs.
func (p phase) size(n int, sub subject) int {
	switch {
	case p.paced && quick():
		return 40
	case p.paced:
		return latencyEvents
	case quick() && p.backlog:
		return 200
	case quick():
		return max(p.batch, 100)
	}
	return max(n/max(sub.part, 1)/batch, 1) * batch
}

// patience is how long a phase may take, so that a subject that lost an event ends the benchmark.
const patience = 2 * time.Minute

// measure runs the phase with n events on an empty queue of the subject.
func (p phase) measure(b *testing.B, f *field, sub subject, n int) (result result, err error) {
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	w := f.work
	if p.paced {
		w = f.numbered
		if result.floor, err = w.floor(b, n/4); err != nil {
			return result, err
		}
		result.floor.fdatasync += sub.sync
		result.floor.inARow += sub.sync
	}
	most := p.inFlight
	if most == 0 {
		most = inFlight
	}
	q, err := sub.open(b, w, f.servers, most)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, q.close()) }()
	empty, err := q.disk(ctx)
	if err != nil {
		return result, err
	}
	if p.backlog {
		if err := p.fill(ctx, q, n); err != nil {
			return result, err
		}
	}
	var server *process
	if sub.server != nil {
		server = sub.server(f.servers)
	}
	result.events = n
	result.usage = metered(f.receiver, server, func() {
		pprof.Do(ctx, pprof.Labels("subject", sub.name, "phase", p.name), func(ctx context.Context) {
			if p.paced {
				result.latencies, err = latencies(ctx, q, f.receiver, n)
			} else {
				err = p.run(ctx, q, n)
			}
		})
	})
	if err != nil {
		return result, err
	}
	full, err := q.disk(ctx)
	result.disk = full - empty
	return result, err
}

// fill enqueues the backlog, one event a call where there is no call for more.
func (p phase) fill(ctx context.Context, q queue, n int) error {
	err := p.enqueue(ctx, q, n)
	if errors.Is(err, missingBatch) {
		err = phase{emitters: emitters, batch: 1}.enqueue(ctx, q, n)
	}
	return err
}

// run is the part of the phase that is measured.
func (p phase) run(ctx context.Context, q queue, n int) error {
	if p.deliver {
		if err := q.start(ctx); err != nil {
			return err
		}
	}
	if !p.backlog {
		if err := p.enqueue(ctx, q, n); err != nil {
			return err
		}
	}
	if p.deliver {
		return untilAcknowledged(ctx, q, n)
	}
	return nil
}

// enqueue enqueues n events, which the emitters take in turn.
func (p phase) enqueue(ctx context.Context, q queue, n int) error {
	var next atomic.Int64
	errs := make([]error, p.emitters)
	var loops sync.WaitGroup
	for e := range p.emitters {
		loops.Go(func() {
			for errs[e] == nil {
				i := int(next.Add(int64(p.batch))) - p.batch
				if i >= n {
					return
				}
				errs[e] = q.enqueue(ctx, i, min(p.batch, n-i))
			}
		})
	}
	loops.Wait()
	return errors.Join(errs...)
}

func untilAcknowledged(ctx context.Context, q queue, n int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		all, err := q.acknowledged(ctx, n)
		if err != nil || all {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
