package postrider

import (
	"errors"
	"time"
)

// How long shutdown waits beside Config.Drain, 0.9 s in all: Run promises Drain and 1 s. A Claim that is under way has
// Drain, if that is longer than claimTime: if it is cut, what it may have claimed waits until the lease is over.
const (
	claimTime = 200 * time.Millisecond
	graceTime = 350 * time.Millisecond // for senders to return once they are cut off
	flushTime = 350 * time.Millisecond // for the last outcomes to be recorded
)

// shutdown lets the requests in flight end, or ends them, and has their outcomes recorded.
func (e *engine) shutdown() {
	e.recall(true)
	end := (<-e.ended).Add(e.drain())
	e.await(time.Until(end), e.calls.Done()) // a closed store is no reason to wait
	e.cutOff()
	e.await(graceTime, nil)
	if n := e.abandon(); n > 0 {
		e.log.ErrorContext(e.attempts, "senders do not return after they were cut off; their deliveries are sent again", "requests", n)
	}
	close(e.jobs)
	e.workers.Wait()

	late := time.AfterFunc(max(0, time.Until(end))+flushTime, e.cutCalls)
	defer late.Stop()
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	signal(e.outcomes)
	e.recorder.Wait()
	e.mu.Lock()
	lost := len(e.queue.outcomes) + e.taken
	e.mu.Unlock()
	if lost > 0 {
		e.log.ErrorContext(e.attempts, "outcomes could not be recorded; their deliveries are sent again", "outcomes", lost)
	}
}

func (e *engine) drain() time.Duration { return min(e.cfg.Drain, maxDuration) }

// await returns when nothing is in flight, when the time is over, or when done is closed.
func (e *engine) await(d time.Duration, done <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		e.settle()
		if e.young.n+e.slow.n == 0 {
			return
		}
		e.want(1)
		select {
		case <-e.wake:
		case <-timer.C:
			return
		case <-done:
			return
		}
	}
}

// abandon gives up the flights that have not landed, releases their claims, and returns how many.
func (e *engine) abandon() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, list := range []*flightList{&e.young, &e.slow} {
		for f := list.first; f != nil; f = f.next {
			if !f.done {
				f.abandoned = true
				e.appendLocked(Outcome{DeliveryID: f.claim.Delivery.ID, Token: f.claim.Token}, nil)
				n++
			}
		}
	}
	e.workers.Add(-n)
	return n
}

// closed ends Run if the error says that the store is closed.
func (e *engine) closed(err error) bool {
	if !errors.Is(err, ErrClosed) {
		return false
	}
	e.mu.Lock()
	if e.failure == nil {
		e.failure = err
	}
	e.mu.Unlock()
	e.stop()
	e.cutCalls()
	return true
}
