package postrider_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/memstore"
)

// stream is a random sequence of events over 20 keys, for a webhook that orders by key and one that orders all.
type stream struct {
	t     *testing.T
	seed  uint64
	rand  *rand.Rand
	store postrider.Store

	mu      sync.Mutex
	lanes   map[string][]string // by webhook and key: deliveries in the order of commits
	lane    map[string]string   // of a delivery
	place   map[string]int      // of a delivery in its lane
	arrived map[string][]string // by lane: deliveries in the order of their first arrival
	seen    map[string]int      // requests of a delivery
}

// Send is a receiver that fails, hangs and is slow at random, the same for a seed. It checks that what comes before in
// the lane has ended.
func (s *stream) Send(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	s.mu.Lock()
	lane, ordered := s.lane[r.DeliveryID]
	var before []string
	if ordered {
		before = s.lanes[lane][:s.place[r.DeliveryID]]
		if s.seen[r.DeliveryID] == 0 {
			s.arrived[lane] = append(s.arrived[lane], r.DeliveryID)
		}
	}
	s.seen[r.DeliveryID]++
	visit := s.seen[r.DeliveryID]
	s.mu.Unlock()
	for _, id := range before {
		if v, _, err := s.store.Delivery(context.Background(), id); err != nil || !v.Status.Final() {
			s.t.Errorf("seed %d: lane %s: %s was sent while %s was %v (%v)", s.seed, lane, r.DeliveryID, id, v.Status, err)
		}
	}
	h := fnv.New64a()
	fmt.Fprint(h, r.WebhookID, r.EventID, visit)
	random := rand.New(rand.NewPCG(s.seed, h.Sum64()))
	if err := sleep(ctx, time.Duration(random.IntN(3000))*time.Millisecond); err != nil {
		return postrider.Response{}, err
	}
	switch n := random.IntN(20); {
	case n < 1:
		return hang(ctx, r)
	case n < 2:
		return postrider.Response{}, &postrider.SendError{Class: postrider.ClassLocal, Err: errors.New("no descriptors")}
	case n < 8:
		return postrider.Response{Code: 500}, nil
	case n < 9:
		return postrider.Response{Code: 429}, nil
	}
	return postrider.Response{Code: 200}, nil
}

// emit emits some events in one step.
func (s *stream) emit(d *postrider.Dispatcher, from, n int) {
	events := make([]postrider.Event, n)
	for i := range events {
		events[i] = postrider.Event{ID: fmt.Sprint(from + i), Type: "x", Payload: []byte(`{}`)}
		if key := s.rand.IntN(21); key < 20 {
			events[i].OrderKey = fmt.Sprint("key", key)
		}
	}
	s.mu.Lock() // so that no delivery arrives before it is known
	defer s.mu.Unlock()
	receipts, err := d.EmitAll(s.t.Context(), events)
	require.NoError(s.t, err)
	for i, r := range receipts {
		require.Len(s.t, r.Deliveries, 2)
		s.enter("all", r.Deliveries[1])
		if events[i].OrderKey != "" {
			s.enter(events[i].OrderKey, r.Deliveries[0])
		}
	}
}

func (s *stream) enter(lane, id string) {
	s.lane[id], s.place[id] = lane, len(s.lanes[lane])
	s.lanes[lane] = append(s.lanes[lane], id)
}

// check verifies that the first arrivals of each lane were in the order of commits, all but those that were canceled.
func (s *stream) check() {
	gaps := 0
	for lane, ids := range s.lanes {
		var want []string
		for _, id := range ids {
			v, attempts, err := s.store.Delivery(s.t.Context(), id)
			require.NoError(s.t, err)
			require.True(s.t, v.Status.Final(), "seed %d: lane %s: %s is %s after %d attempts", s.seed, lane, id, v.Status, v.Attempts)
			if s.seen[id] > 0 || v.Status != postrider.StatusCanceled {
				want = append(want, id)
			} else {
				require.Empty(s.t, attempts)
				gaps++
			}
		}
		require.Equal(s.t, want, s.arrived[lane], "seed %d: lane %s", s.seed, lane)
	}
	require.Less(s.t, gaps, len(s.lane)/2, "most have arrived")
}

// run sends the stream, with three restarts. reopen closes the store, if it can, and opens it again.
func (s *stream) run(reopen func(postrider.Store) postrider.Store) {
	const parts, events = 4, 15
	config := postrider.Config{
		Sender: s, Logger: quiet(), Drain: time.Second, Timeout: 5 * time.Second,
		Retry: postrider.Schedule{time.Second, 5 * time.Second, 10 * time.Second},
	}
	for part := range parts {
		d, err := postrider.New(s.store, config)
		require.NoError(s.t, err)
		if part == 0 {
			for i, id := range []string{"keyed", "ordered"} {
				_, err := d.CreateWebhook(s.t.Context(), postrider.Webhook{
					ID: id, Name: id, URL: "http://a.example", Events: []string{"x"}, Ordered: i == 1,
				})
				require.NoError(s.t, err)
			}
		}
		stop := start(d)
		for range 3 {
			s.emit(d, s.rand.IntN(1<<40), events/3)
			time.Sleep(time.Duration(s.rand.IntN(8000)) * time.Millisecond)
			if s.rand.IntN(4) == 0 {
				lanes := slices.Sorted(maps.Keys(s.lanes)) // so that the seed decides which
				ids := s.lanes[lanes[s.rand.IntN(len(lanes))]]
				_, err := d.Cancel(s.t.Context(), postrider.DeliveryQuery{ID: ids[s.rand.IntN(len(ids))]})
				require.NoError(s.t, err)
			}
		}
		if part == parts-1 {
			time.Sleep(12 * time.Hour)
		}
		require.NoError(s.t, stop())
		if part < parts-1 {
			s.store = reopen(s.store)
		}
	}
	s.check()
	require.NoError(s.t, s.store.Close())
}

func TestOrderedStreamsArriveInOrder(t *testing.T) {
	t.Parallel()
	streams := uint64(200)
	if testing.Short() {
		streams = 20
	}
	each := func(t *testing.T, open func(path string) postrider.Store, reopen func(s postrider.Store, path string) postrider.Store) {
		t.Parallel()
		one := func(t *testing.T, seed uint64) {
			path := filepath.Join(t.TempDir(), "store.db")
			synctest.Test(t, func(t *testing.T) {
				s := &stream{
					t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), store: open(path), lanes: map[string][]string{},
					lane: map[string]string{}, place: map[string]int{}, arrived: map[string][]string{}, seen: map[string]int{},
				}
				s.run(func(store postrider.Store) postrider.Store { return reopen(store, path) })
			})
		}
		for next := uint64(0); next < streams; next += 20 { // many at a time: they wait for the disk
			var wg sync.WaitGroup
			for seed := next; seed < next+20; seed++ {
				wg.Go(func() { t.Run(fmt.Sprint(seed), func(t *testing.T) { one(t, seed) }) })
			}
			wg.Wait()
		}
	}
	t.Run("memory", func(t *testing.T) {
		each(t, func(string) postrider.Store { return memstore.New(memstore.Options{}) },
			func(s postrider.Store, _ string) postrider.Store { return s })
	})
	t.Run("bolt", func(t *testing.T) {
		open := func(path string) postrider.Store {
			s, err := bolt.Open(path, bolt.Options{})
			require.NoError(t, err)
			return s
		}
		each(t, open, func(s postrider.Store, path string) postrider.Store {
			require.NoError(t, s.Close())
			return open(path)
		})
	})
}
