package postrider_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// canned is a store that hands out b.N deliveries to some webhooks, and keeps nothing: what remains is the engine.
type canned struct {
	postrider.Store
	claims  []postrider.Claim // one a webhook
	calls   int
	batches int

	mu   sync.Mutex
	left int
	done int
	held []int
	all  chan struct{}
	wake chan struct{}
}

func (s *canned) Wait(ctx context.Context) error {
	select {
	case <-s.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *canned) Change(context.Context, postrider.Change) (int, bool, error) { return 0, false, nil }

func (s *canned) Claim(_ context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	var out []postrider.Claim
	for i := range s.claims {
		c := s.claims[i]
		limit, ok := r.Limits[c.Webhook.ID]
		if !ok {
			limit = r.Each
		}
		for range min(limit, r.MaxInFlight-s.held[i]) {
			if s.left == 0 || len(out) == r.Max {
				break
			}
			s.left--
			s.held[i]++
			out = append(out, c)
		}
	}
	if len(out) == r.Max {
		return out, 0, nil
	}
	return out, postrider.Forever, nil
}

func (s *canned) Complete(_ context.Context, o []postrider.Outcome) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches++
	for i := range o {
		n, _ := strconv.Atoi(o[i].DeliveryID)
		s.held[n]--
	}
	if s.done += len(o); s.done == cap(s.all) {
		close(s.all)
	}
	return len(o), nil
}

// BenchmarkEngine measures what the engine adds to each delivery: the store and the sender do nothing.
func BenchmarkEngine(b *testing.B) {
	s := &canned{left: b.N, all: make(chan struct{}, b.N), wake: make(chan struct{}, 1)}
	for i := range 50 {
		w := validWebhook()
		w.ID, w.Version = fmt.Sprint(i), 1
		s.claims = append(s.claims, postrider.Claim{
			Delivery: postrider.Delivery{ID: w.ID, EventID: "e", WebhookID: w.ID},
			Event:    postrider.Event{ID: "e", Type: "x", Payload: make([]byte, 1000)}, Webhook: w, Token: "t",
		})
	}
	s.held = make([]int, len(s.claims))
	d, err := postrider.New(s, postrider.Config{Logger: quiet(), Sender: senderFunc(answers(0, 200)), Retention: postrider.Forever})
	require.NoError(b, err)
	b.ReportAllocs()
	b.ResetTimer()
	stop := start(d)
	<-s.all
	b.StopTimer()
	require.NoError(b, stop())
	b.ReportMetric(float64(b.N)/float64(s.calls), "claimed/call")
	b.ReportMetric(float64(b.N)/float64(s.batches), "recorded/call")
}
