package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/postrider/postrider"
)

const saysWakes = "Wait returns nil when something may have become due for another reason than time passing: an Enqueue, a commit of the caller's transaction, a webhook that was resumed or changed, a claim that was completed or released, a Change."

var waitCases = []testCase{
	{name: "Wait/never-misses", run: waitNeverMisses,
		says: "It may return without cause, but never misses one that came after the last Claim."},
	{name: "Wait/enqueue", run: waitEnqueue, says: saysWakes},
	{name: "Wait/resumed", run: waitResumed, says: saysWakes},
	{name: "Wait/changed", run: waitChanged, says: saysWakes},
	{name: "Wait/completed", run: waitCompleted, says: saysWakes},
	{name: "Wait/released", run: waitReleased, says: saysWakes},
	{name: "Wait/due", run: waitDue, says: saysWakes},
}

// woken ends the case unless Wait returns after what was done since the last Claim, and a Claim finds something.
func (x *suite) woken(after string) {
	ctx, cancel := context.WithTimeout(x.ctx, x.patience)
	defer cancel()
	for {
		if err := x.s.Wait(ctx); err != nil {
			x.fail("Wait to return nil after "+after, "%v", err)
		}
		if len(x.claim(1)) > 0 {
			return
		}
		if ctx.Err() != nil {
			x.fail("something to claim after "+after, "nothing")
		}
	}
}

// idle claims until nothing is due, and lets Wait use up what it has to tell.
func (x *suite) idle() {
	x.claimsNothing("before Wait")
	ctx, cancel := context.WithTimeout(x.ctx, 5*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		if err := x.s.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			x.fail("Wait to return nil, or the error of its context", "%v", err)
		}
	}
	x.claimsNothing("before Wait")
}

func waitNeverMisses(x *suite) {
	a := x.hook("a")
	for range 3 {
		x.idle()
		x.send(a, 1)
		x.woken("an Enqueue that came before it")
	}
	// Of two that came, the second one is told too if a Claim came between.
	x.idle()
	x.send(a, 1)
	x.claim(10)
	x.send(a, 1)
	x.woken("an Enqueue that came after the last Claim")
}

func waitEnqueue(x *suite) {
	a := x.hook("a")
	for range 3 {
		x.idle()
		ctx, cancel := context.WithTimeout(x.ctx, x.patience)
		found := make(chan error, 1)
		waiting := make(chan struct{})
		go func() {
			close(waiting)
			for {
				if err := x.s.Wait(ctx); err != nil {
					found <- err
					return
				}
				claims, _, err := x.s.Claim(ctx, postrider.ClaimRequest{Max: 1, Lease: lease})
				if err != nil || len(claims) > 0 {
					found <- err
					return
				}
			}
		}()
		<-waiting
		settle()
		x.send(a, 1)
		err := <-found
		cancel()
		if err != nil {
			x.fail("a caller in Wait to return nil after an Enqueue, and find it", "%v", err)
		}
	}
}

// settle gives a goroutine that was just started the time to block. Nothing depends on it but how much a case sees.
func settle() { <-time.After(30 * time.Millisecond) }

func waitResumed(x *suite) {
	for _, state := range []postrider.State{postrider.StatePaused, postrider.StateDisabled} {
		id := x.hook("is-"+state.String(), func(w *postrider.Webhook) { w.State = state })
		x.send(id, 1)
		x.idle()
		x.update(id, func(w *postrider.Webhook) { w.State, w.Reason = postrider.StateEnabled, "" })
		x.woken("a webhook was resumed that had been " + state.String())
	}
}

func waitChanged(x *suite) {
	a := x.hook("a", maxInFlight(1))
	x.send(a, 2)
	x.claim(1)
	x.idle()
	x.update(a, maxInFlight(2))
	x.woken("a webhook's MaxInFlight went from 1 to 2")
	b := x.hook("b", func(w *postrider.Webhook) { w.NotBefore = x.clock.stored(x.clock.Now()).Add(time.Hour) })
	x.send(b, 1)
	x.idle()
	x.update(b, func(w *postrider.Webhook) { w.NotBefore = time.Time{} })
	x.woken("a webhook's NotBefore was cleared")
}

func waitCompleted(x *suite) {
	x.send(x.hook("a", maxInFlight(1)), 3)
	c := x.claim(1)
	x.idle()
	x.complete(x.delivered(c[0]))
	x.woken("a claim was completed of a webhook that had MaxInFlight held")
	x.send(x.hook("b"), 1)
	c = x.claim(1)
	equal(x, "claims", len(c), 1)
	x.idle()
	x.complete(x.again(c[0], 0))
	x.woken("a claim was completed with RetryIn 0")
}

func waitReleased(x *suite) {
	x.send(x.hook("a"), 1)
	c := x.claimOne()
	x.idle()
	x.complete(released(c))
	x.woken("a claim was released")
}

func waitDue(x *suite) {
	x.send(x.hook("a"), 1)
	c := x.claimOne()
	x.complete(x.again(c, time.Hour))
	x.idle()
	x.change(postrider.Change{Kind: postrider.ChangeDue, Query: postrider.DeliveryQuery{ID: c.Delivery.ID}})
	x.woken("a Change made a delivery due")
}
