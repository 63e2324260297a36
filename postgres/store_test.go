package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

func TestMigrateFromManyAtOnce(t *testing.T) {
	t.Parallel()
	need(t)
	o := postgres.Options{Schema: fmt.Sprintf("test_%d_%d", os.Getpid(), schemas.Add(1)), UnsafeNoFsync: unsafe}
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+o.Schema+" CASCADE")
		require.NoError(t, err)
	})
	_, err := postgres.New(pool, o)
	require.ErrorContains(t, err, "the schema has version 0, want 1: call postgres.Migrate first")
	var wg sync.WaitGroup
	errs := make(chan error, 5)
	for range cap(errs) {
		wg.Go(func() { errs <- postgres.Migrate(t.Context(), pool, o) })
	}
	wg.Wait()
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	open(t, o)
	_, err = pool.Exec(t.Context(), "INSERT INTO "+o.Schema+".migration (version) VALUES (99)")
	require.NoError(t, err)
	const newer = "the schema has version 99, which is newer than 1"
	require.ErrorContains(t, postgres.Migrate(t.Context(), pool, o), newer)
	_, err = postgres.New(pool, o)
	require.ErrorContains(t, err, newer)
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	need(t)
	for _, o := range []postgres.Options{
		{Schema: "A"}, {Schema: "1a"}, {Schema: `a"; DROP`}, {Poll: -1}, {Timeout: -1}, {Partition: -1},
		{Partition: 90 * time.Minute}, {Partition: 32 * 24 * time.Hour},
	} {
		_, err := postgres.New(pool, o)
		require.ErrorContains(t, err, "Options.", "%+v", o)
	}
	if o := fresh(t); unsafe {
		o.UnsafeNoFsync = false
		_, err := postgres.New(pool, o)
		require.ErrorContains(t, err, "fsync off")
	}
}

func TestEventsInATransactionOfDatabaseSQL(t *testing.T) {
	t.Parallel()
	s := open(t, fresh(t))
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	require.NoError(t, s.CreateWebhook(t.Context(), hook("b", func(w *postrider.Webhook) { w.Ordered = true })))
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	it := event("1")
	it.Event.Payload, it.Event.ContentType = []byte("\x00\xff\"{},\\ \n"), "application/octet-stream"
	for _, commits := range []bool{false, true} {
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		q := s.SQLTx(tx)
		receipts, err := q.Enqueue(t.Context(), []postrider.Item{it, event("2")})
		require.NoError(t, err)
		require.Len(t, receipts[0].Deliveries, 2)
		receipts, err = q.Enqueue(t.Context(), []postrider.Item{it})
		require.NoError(t, err)
		require.True(t, receipts[0].Duplicate)
		_, err = q.Enqueue(t.Context(), []postrider.Item{{Event: it.Event, To: []string{"nobody"}}})
		require.ErrorIs(t, err, postrider.ErrNotFound)
		if !commits {
			require.NoError(t, tx.Rollback())
			_, err = s.Event(t.Context(), "p", "1")
			require.ErrorIs(t, err, postrider.ErrNotFound)
			continue
		}
		require.NoError(t, tx.Commit())
	}
	got, err := s.Event(t.Context(), "p", "1")
	require.NoError(t, err)
	require.Equal(t, it.Event.Payload, got.Payload)
	claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 10, Lease: time.Hour})
	require.NoError(t, err)
	require.Len(t, claims, 3, "two of a, the first of b's lane")
}

// What is rolled up and made coarser counts the same.
func TestRollUpKeepsTheCounts(t *testing.T) {
	t.Parallel()
	s := open(t, fresh(t))
	s.SetRollUp(1 << 60)
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	require.NoError(t, s.CreateWebhook(t.Context(), hook("b", func(w *postrider.Webhook) { w.Ordered = true })))
	n := 0
	round := func() {
		for range 4 {
			n++
			_, err := s.Enqueue(t.Context(), []postrider.Item{event(fmt.Sprint(n))})
			require.NoError(t, err)
		}
		claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 4, Lease: time.Hour})
		require.NoError(t, err)
		for i, c := range claims {
			out := delivered(c)
			if i%2 == 0 {
				out = again(c)
				out.RetryIn = time.Duration(i) * time.Hour
			}
			_, err = s.Complete(t.Context(), []postrider.Outcome{out})
			require.NoError(t, err)
		}
	}
	stats := func() (postrider.Stats, postrider.Rates) {
		st, err := s.Stats(t.Context(), postrider.StatsQuery{Rates: true})
		require.NoError(t, err)
		rates := *st.Rates
		st.Rates = nil
		return st, rates
	}
	// What is asked of all is counted in another way than what is asked of some.
	parts := func() (all []postrider.Stats) {
		var of postrider.Rate
		queries := []postrider.StatsQuery{{}, {Project: "p"}, {WebhookID: "a"}, {WebhookID: "b"}, {Owner: "nobody"}}
		for i := range queries {
			queries[i].Rates = true
			st, err := s.Stats(t.Context(), queries[i])
			require.NoError(t, err)
			if i >= 2 {
				r := sum(st.Rates.Hours[:])
				of.OK, of.Failed = of.OK+r.OK, of.Failed+r.Failed
			} else {
				require.Equal(t, st.AttemptsOK, sum(st.Rates.Hours[:]).OK)
			}
			st.Rates = nil
			all = append(all, st)
		}
		require.Equal(t, all[0], all[1])
		require.Equal(t, all[0].New, all[2].New+all[3].New)
		require.Equal(t, all[0].Delivered, all[2].Delivered+all[3].Delivered)
		require.Equal(t, postrider.Rate{OK: all[0].AttemptsOK, Failed: all[0].AttemptsFailed}, of)
		require.Equal(t, postrider.Stats{}, all[4])
		return all
	}
	for range 3 {
		round()
		before, rates := stats()
		each := parts()
		rolled, err := s.RollUp(t.Context())
		require.NoError(t, err)
		require.Positive(t, rolled)
		after, rates2 := stats()
		require.Equal(t, before, after)
		require.Equal(t, each, parts())
		require.Equal(t, sum(rates.Minutes[:]), sum(rates2.Minutes[:]))
		require.Equal(t, sum(rates.Hours[:]), sum(rates2.Hours[:]))
	}
	_, before := stats()
	require.NoError(t, s.Age(t.Context(), 6*time.Hour))
	require.NoError(t, s.Coarsen(t.Context()))
	_, after := stats()
	require.Zero(t, sum(after.Minutes[:]))
	require.Equal(t, sum(before.Hours[:]), sum(after.Hours[:]))
	require.NoError(t, s.Age(t.Context(), 33*24*time.Hour))
	require.NoError(t, s.Coarsen(t.Context()))
	_, after = stats()
	require.Zero(t, sum(after.Hours[:]))
}

func sum(list []postrider.Rate) (r postrider.Rate) {
	for _, v := range list {
		r.OK, r.Failed = r.OK+v.OK, r.Failed+v.Failed
	}
	return r
}

// Another process is told: here nobody would find anything by polling.
func TestWaitIsToldByOtherProcesses(t *testing.T) {
	t.Parallel()
	long := fmt.Sprintf("long_%d_", os.Getpid())
	for name, o := range map[string]postgres.Options{
		"short": fresh(t), "of 63 bytes": freshIn(t, long+strings.Repeat("x", 63-len(long))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			isToldByOtherProcesses(t, o)
		})
	}
}

func isToldByOtherProcesses(t *testing.T, o postgres.Options) {
	o.Poll = time.Hour
	here, there := open(t, o), open(t, o)
	t.Cleanup(func() { require.NoError(t, here.Close()) })
	require.NoError(t, there.CreateWebhook(t.Context(), hook("a")))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	found := make(chan error, 1)
	go func() {
		for {
			if err := here.Wait(ctx); err != nil {
				found <- err
				return
			}
			if claims, _, err := here.Claim(ctx, postrider.ClaimRequest{Max: 1, Lease: time.Hour}); err != nil || len(claims) > 0 {
				found <- err
				return
			}
		}
	}()
	for n := 0; ; n++ { // the first may come before it listens
		_, err := there.Enqueue(t.Context(), []postrider.Item{event(fmt.Sprint(n))})
		require.NoError(t, err)
		select {
		case err := <-found:
			require.NoError(t, err)
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func TestWaitEndsWithItsContextAndWithTheStore(t *testing.T) {
	t.Parallel()
	for _, pollOnly := range []bool{false, true} {
		o := fresh(t)
		o.Poll, o.PollOnly = time.Hour, pollOnly
		s := open(t, o)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.ErrorIs(t, s.Wait(ctx), context.DeadlineExceeded)
		cancel()
		got := make(chan error, 1)
		go func() { got <- s.Wait(t.Context()) }()
		time.Sleep(50 * time.Millisecond)
		require.NoError(t, s.Close())
		require.True(t, errors.Is(<-got, postrider.ErrClosed))
	}
}
