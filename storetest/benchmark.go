package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/postrider/postrider"
)

// Benchmark measures what every store does most. Each part works on a store of its own, which open returns empty,
// measuring real time, and which Benchmark closes.
//
//   - Enqueue: one event for one webhook a call.
//   - EnqueueBatch: 100 events for one webhook each a call.
//   - ClaimComplete: claims 64 deliveries of 50 webhooks with a long backlog, and records them as delivered.
func Benchmark(b *testing.B, open func(b *testing.B) postrider.Store) {
	b.Run("Enqueue", func(b *testing.B) { benchmarkEnqueue(b, open, 1) })
	b.Run("EnqueueBatch", func(b *testing.B) { benchmarkEnqueue(b, open, 100) })
	b.Run("ClaimComplete", func(b *testing.B) { benchmarkClaim(b, open) })
}

const benchHooks = 50

// bench is a store with webhooks, and events for it whose IDs ascend, as UUIDv7 do.
type bench struct {
	postrider.Store
	b *testing.B
	n int
}

func newBench(b *testing.B, open func(b *testing.B) postrider.Store) *bench {
	s := &bench{Store: open(b), b: b}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Errorf("Close: %v", err)
		}
	})
	for i := range benchHooks {
		w := newHook(fmt.Sprintf("hook-%02d", i))
		w.Events = []string{"all", w.ID}
		if err := s.CreateWebhook(b.Context(), w); err != nil {
			b.Fatalf("CreateWebhook: %v", err)
		}
	}
	return s
}

var benchPayload = fmt.Appendf(nil, `{"text":"%0256d"}`, 0)

func (s *bench) items(n int, typ string) []postrider.Item {
	items := make([]postrider.Item, n)
	now := time.Now()
	for i := range items {
		s.n++
		e := postrider.Event{ID: fmt.Sprintf("%016x", s.n), Project: "p", Type: typ, Time: now, Payload: benchPayload}
		if e.Type == "" {
			e.Type = fmt.Sprintf("hook-%02d", s.n%benchHooks)
		}
		items[i].Event = e
	}
	return items
}

func (s *bench) enqueue(items []postrider.Item) {
	if _, err := s.Enqueue(s.b.Context(), items); err != nil {
		s.b.Fatalf("Enqueue: %v", err)
	}
}

func benchmarkEnqueue(b *testing.B, open func(b *testing.B) postrider.Store, size int) {
	s := newBench(b, open)
	for b.Loop() {
		s.enqueue(s.items(size, ""))
	}
	b.ReportMetric(float64(s.n)/b.Elapsed().Seconds(), "events/s")
}

func benchmarkClaim(b *testing.B, open func(b *testing.B) postrider.Store) {
	const most, refill = 64, 200
	s := newBench(b, open)
	outcomes := make([]postrider.Outcome, 0, most)
	backlog, done := 0, 0
	for b.Loop() {
		if backlog < benchHooks*most {
			b.StopTimer()
			s.enqueue(s.items(refill, "all"))
			backlog += refill * benchHooks
			b.StartTimer()
		}
		claims, _, err := s.Claim(b.Context(), postrider.ClaimRequest{Max: most, Lease: time.Hour})
		if err != nil || len(claims) != most {
			b.Fatalf("Claim: %d claims, %v", len(claims), err)
		}
		now := time.Now()
		outcomes = outcomes[:0]
		for i := range claims {
			d := &claims[i].Delivery
			outcomes = append(outcomes, postrider.Outcome{
				DeliveryID: d.ID, Token: claims[i].Token, Status: postrider.StatusDelivered,
				Attempt: &postrider.Attempt{
					DeliveryID: d.ID, WebhookID: d.WebhookID, Number: d.Attempts + 1, StartedAt: now, FinishedAt: now,
					Timestamp: now.Unix(), Code: 200, Body: []byte("ok"),
				},
				Webhook: &postrider.WebhookChange{},
			})
		}
		if n, err := s.Complete(b.Context(), outcomes); err != nil || n != most {
			b.Fatalf("Complete: %d outcomes, %v", n, err)
		}
		backlog -= most
		done += most
	}
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "deliveries/s")
}
