package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

func hook(id string, edit ...func(*postrider.Webhook)) postrider.Webhook {
	w := postrider.Webhook{ID: id, Project: "p", Name: id, URL: "https://example.com/" + id, Events: []string{"*"}}
	for _, f := range edit {
		f(&w)
	}
	return w
}

func event(id string) postrider.Item {
	return postrider.Item{Event: postrider.Event{ID: id, Project: "p", Type: "t", Time: time.Now(), Payload: []byte(`{}`)}}
}

func delivered(c postrider.Claim) postrider.Outcome {
	now := time.Now()
	return postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered, Attempt: &postrider.Attempt{
		DeliveryID: c.Delivery.ID, Number: c.Delivery.Attempts + 1, StartedAt: now, FinishedAt: now, Timestamp: now.Unix(), Code: 200,
	}}
}

func again(c postrider.Claim) postrider.Outcome {
	o := delivered(c)
	o.Status = postrider.StatusInProcess
	o.Attempt.Failed, o.Attempt.Code, o.Attempt.Class = true, 500, postrider.ClassStatus
	return o
}

// watch is what is in flight at each moment, as the receivers would see it.
type watch struct {
	mu     sync.Mutex
	held   map[string]bool // by delivery
	lanes  map[string]int
	ends   map[string]int
	faults []string
	last   map[string]time.Time // when what last went out of a lane was made
}

func newWatch() *watch {
	return &watch{held: map[string]bool{}, lanes: map[string]int{}, ends: map[string]int{}, last: map[string]time.Time{}}
}

func (w *watch) took(c postrider.Claim, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[c.Delivery.ID] || w.ends[c.Delivery.ID] > 0 {
		w.faults = append(w.faults, "handed out twice: "+c.Delivery.ID)
	}
	if most > 0 && c.Held > most {
		w.faults = append(w.faults, fmt.Sprintf("%d held of %s", c.Held, c.Webhook.ID))
	}
	w.held[c.Delivery.ID] = true
	if k := c.Event.OrderKey; k != "" {
		if w.lanes[k]++; w.lanes[k] > 1 || c.Delivery.CreatedAt.Before(w.last[k]) {
			w.faults = append(w.faults, "out of turn: "+c.Delivery.ID)
		}
		w.last[k] = c.Delivery.CreatedAt
	}
}

// gives notes that the outcome is about to be recorded: from then on another may get it.
func (w *watch) gives(c postrider.Claim, ends bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.held, c.Delivery.ID)
	if k := c.Event.OrderKey; k != "" {
		w.lanes[k]--
	}
	if ends {
		w.ends[c.Delivery.ID]++
	}
}

func (w *watch) ended() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ends)
}

func TestTwoStoresNeverShareAClaim(t *testing.T) {
	t.Parallel()
	o := fresh(t)
	stores := []*postgres.Store{open(t, o), open(t, o)}
	const hooks, events, most = 5, 60, 3
	for i := range hooks {
		require.NoError(t, stores[0].CreateWebhook(t.Context(), hook(fmt.Sprint("h", i))))
	}
	var items []postrider.Item
	for i := range events {
		items = append(items, event(fmt.Sprint("e", i)))
	}
	_, err := stores[1].Enqueue(t.Context(), items)
	require.NoError(t, err)
	w := newWatch()
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for g := range 6 {
		s := stores[g%2]
		wg.Go(func() {
			for w.ended() < hooks*events {
				claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 7, Lease: time.Hour, MaxInFlight: most})
				if err != nil {
					errs <- err
					return
				}
				for _, c := range claims {
					w.took(c, most)
				}
				for _, c := range claims {
					w.gives(c, true)
					if n, err := s.Complete(t.Context(), []postrider.Outcome{delivered(c)}); err != nil || n != 1 {
						errs <- fmt.Errorf("%d recorded: %w", n, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	require.Empty(t, errs)
	require.Empty(t, w.faults)
	st, err := stores[0].Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.Equal(t, postrider.Stats{Delivered: hooks * events, AttemptsOK: hooks * events}, st)
}

// Events enter lanes, by single calls and in transactions of which some roll back, while others end.
func TestLanesGoOnUnderLoad(t *testing.T) {
	t.Parallel()
	o := fresh(t)
	stores := []*postgres.Store{open(t, o), open(t, o)}
	require.NoError(t, stores[0].CreateWebhook(t.Context(), hook("a")))
	const each, emitters = 40, 4
	w := newWatch()
	var emit, work sync.WaitGroup
	var mu sync.Mutex
	stored, emitting := 0, true
	errs := make(chan error, 100)
	for g := range emitters {
		s := stores[g%2]
		emit.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range each {
				it := event(fmt.Sprintf("e-%d-%d", g, i))
				it.Event.OrderKey = fmt.Sprint("k", i%2)
				tx, err := pool.Begin(t.Context())
				if err != nil {
					errs <- err
					return
				}
				var q postrider.Enqueuer = s
				if g > 0 {
					q = s.Tx(tx)
				}
				_, err = q.Enqueue(t.Context(), []postrider.Item{it})
				if err != nil {
					errs <- err
				}
				if rnd.IntN(4) == 0 {
					time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				}
				keep := g == 0 || rnd.IntN(5) > 0
				if keep {
					err = tx.Commit(context.Background())
				} else {
					err = tx.Rollback(context.Background())
				}
				if err != nil {
					errs <- err
				}
				mu.Lock()
				if keep {
					stored++
				}
				mu.Unlock()
			}
		})
	}
	deadline := time.Now().Add(time.Minute)
	for g := range 3 {
		s := stores[g%2]
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(g)))
			for time.Now().Before(deadline) {
				claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 5, Lease: time.Hour})
				if err != nil {
					errs <- err
					return
				}
				for _, c := range claims {
					w.took(c, 0)
				}
				for _, c := range claims {
					out, ends := delivered(c), true
					if rnd.IntN(4) == 0 {
						out, ends = again(c), false
					}
					w.gives(c, ends)
					if n, err := s.Complete(t.Context(), []postrider.Outcome{out}); err != nil || n != 1 {
						errs <- fmt.Errorf("%d recorded: %w", n, err)
						return
					}
				}
				mu.Lock()
				over := !emitting && w.ended() == stored
				mu.Unlock()
				if over {
					return
				}
			}
		})
	}
	emit.Wait()
	mu.Lock()
	emitting = false
	mu.Unlock()
	work.Wait()
	require.Empty(t, errs)
	require.Empty(t, w.faults)
	require.Equal(t, stored, w.ended(), "no lane stands still")
	var left int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM "+o.Schema+".lane").Scan(&left))
	require.Zero(t, left, "lanes without deliveries")
}

func TestCompleteDoesNotWaitForATransactionOfTheCallers(t *testing.T) {
	t.Parallel()
	for _, commits := range []bool{true, false} {
		s := open(t, fresh(t))
		require.NoError(t, s.CreateWebhook(t.Context(), hook("a", func(w *postrider.Webhook) { w.Ordered = true })))
		_, err := s.Enqueue(t.Context(), []postrider.Item{event("1")})
		require.NoError(t, err)
		request := postrider.ClaimRequest{Max: 10, Lease: time.Hour}
		head, _, err := s.Claim(t.Context(), request)
		require.NoError(t, err)
		require.Len(t, head, 1)
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = s.Tx(tx).Enqueue(t.Context(), []postrider.Item{event("2")})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		n, err := s.Complete(ctx, []postrider.Outcome{delivered(head[0])})
		cancel()
		require.NoError(t, err, "with the lane locked")
		require.Equal(t, 1, n)
		claims, _, err := s.Claim(t.Context(), request)
		require.NoError(t, err)
		require.Empty(t, claims)
		if !commits {
			require.NoError(t, tx.Rollback(t.Context()))
			_, err = s.Enqueue(t.Context(), []postrider.Item{event("3")})
			require.NoError(t, err)
		} else {
			require.NoError(t, tx.Commit(t.Context()))
		}
		claims, _, err = s.Claim(t.Context(), request)
		require.NoError(t, err)
		require.Len(t, claims, 1, "commits: %t", commits)
	}
}

// Backends are terminated in the middle of everything. What was acknowledged is there once, and all of it ends.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	o := fresh(t)
	c := pool.Config()
	c.ConnConfig.RuntimeParams["application_name"] = o.Schema
	own, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(own.Close)
	s, err := postgres.New(own, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	require.NoError(t, s.CreateWebhook(t.Context(), hook("b", func(w *postrider.Webhook) { w.Ordered = true })))
	const events, kills = 150, 40
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		defer close(stop)
		for range kills {
			_, err := pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`, o.Schema)
			if err != nil {
				return
			}
			time.Sleep(15 * time.Millisecond)
		}
	})
	errs := 0
	wg.Go(func() {
		for i := range events {
			for {
				_, err := s.Enqueue(t.Context(), []postrider.Item{event(fmt.Sprint("e", i))})
				if err == nil {
					break
				}
				errs++ // what became of it is unknown: the same ID again
			}
		}
	})
	ended := map[string]bool{}
	deadline := time.Now().Add(time.Minute)
	for len(ended) < 2*events && time.Now().Before(deadline) {
		claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 10, Lease: 300 * time.Millisecond})
		if err != nil {
			continue
		}
		for _, c := range claims {
			for time.Now().Before(deadline) {
				_, err := s.Complete(t.Context(), []postrider.Outcome{delivered(c)})
				if err == nil {
					break
				}
			}
			if d, _, err := s.Delivery(t.Context(), c.Delivery.ID); err == nil && d.Status == postrider.StatusDelivered {
				ended[d.ID] = true
			}
		}
		if len(claims) == 0 {
			page, err := s.Deliveries(t.Context(), postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusDelivered}, Limit: 1000})
			if err != nil {
				continue
			}
			for _, d := range page.Items {
				ended[d.ID] = true
			}
		}
	}
	<-stop
	wg.Wait()
	require.Len(t, ended, 2*events)
	st, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.Equal(t, postrider.Stats{Delivered: 2 * events, AttemptsOK: 2 * events}, st)
	t.Logf("%d Enqueue calls with an error", errs)
}
