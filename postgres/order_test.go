package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// stream is events over some keys, for a webhook that orders by key and one that orders all.
type stream struct {
	t    *testing.T
	seed uint64

	mu     sync.Mutex
	lanes  map[string][]string // deliveries in the order of commits
	lane   map[string]string   // of a delivery
	place  map[string]int
	over   map[string]bool // its last request is answered
	next   map[string]int  // by lane: the place of the last that has arrived, and 1
	faults []string
}

const streamTries = 3

// answer fails, is slow and is cut off at random. It holds every request against what came before in its lane.
func (s *stream) answer(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	s.mu.Lock()
	id, lane, place := r.DeliveryID, s.lane[r.DeliveryID], s.place[r.DeliveryID]
	if lane != "" {
		if s.over[id] {
			s.faults = append(s.faults, fmt.Sprintf("%s is sent after its end", id))
		}
		for _, before := range s.lanes[lane][:place] {
			if !s.over[before] {
				s.faults = append(s.faults, fmt.Sprintf("lane %s: place %d is sent before %s is over", lane, place, before))
			}
		}
		s.next[lane] = max(s.next[lane], place+1)
	}
	s.mu.Unlock()
	random := rand.New(rand.NewPCG(s.seed, uint64(place)<<8|uint64(r.Attempt)))
	select {
	case <-ctx.Done():
		return postrider.Response{}, ctx.Err()
	case <-time.After(time.Duration(random.IntN(4000)) * time.Microsecond):
	}
	code := 200
	if random.IntN(3) == 0 {
		code = 500
	}
	s.mu.Lock()
	s.over[id] = s.over[id] || code == 200 || r.Attempt == streamTries
	s.mu.Unlock()
	return postrider.Response{Code: code}, nil
}

func (s *stream) emit(d *desk, random *rand.Rand, from, n int) {
	events := make([]postrider.Event, n)
	for i := range events {
		events[i] = postrider.Event{ID: fmt.Sprint(from + i), Project: "p", Type: "t", Payload: []byte(`{}`)}
		if key := random.IntN(11); key < 10 {
			events[i].OrderKey = fmt.Sprint("key", key)
		}
	}
	s.mu.Lock() // so that no delivery arrives before it is known
	defer s.mu.Unlock()
	receipts, err := d.EmitAll(s.t.Context(), events)
	require.NoError(s.t, err)
	enter := func(lane, id string) {
		s.lane[id], s.place[id] = lane, len(s.lanes[lane])
		s.lanes[lane] = append(s.lanes[lane], id)
	}
	for i, r := range receipts {
		require.Len(s.t, r.Deliveries, 2)
		if events[i].OrderKey != "" {
			enter(events[i].OrderKey, r.Deliveries[0])
		}
		enter("all", r.Deliveries[1])
	}
}

// Streams keep their order over two dispatchers, failures and restarts.
func TestOrderedStreamsArriveInOrder(t *testing.T) {
	t.Parallel()
	o := settings(t)
	s := &stream{
		t: t, seed: rand.Uint64(),
		lanes: map[string][]string{}, lane: map[string]string{}, place: map[string]int{}, over: map[string]bool{}, next: map[string]int{},
	}
	t.Log("seed", s.seed)
	random := rand.New(rand.NewPCG(s.seed, 0))
	c := postrider.Config{
		Retry:      postrider.Schedule{5 * time.Millisecond, 10 * time.Millisecond},
		BreakAfter: 1 << 20, Drain: 50 * time.Millisecond,
	}
	seen := &log{}
	one, two := deskOn(t, open(t, o), c, seen, s.answer), deskOn(t, open(t, o), c, seen, s.answer)
	one.hook("keyed")
	one.hook("ordered", func(w *postrider.Webhook) { w.Ordered = true })
	two.run()
	n := 0
	for range 3 {
		stop := one.run()
		for range 4 {
			s.emit([]*desk{one, two}[random.IntN(2)], random, n, 5)
			n += 5
			time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		}
		stop()
	}
	one.run()
	one.until("all has ended", func() bool { return one.stats("").Open() == 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.faults)
	for lane, ids := range s.lanes {
		require.Equal(t, len(ids), s.next[lane], lane)
	}
}
