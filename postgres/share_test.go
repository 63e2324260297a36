package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// Webhooks that get something now and then are asked for one at a time, however often they gave it; those with a backlog
// for more and more, until they have none.
func TestShareGrowsOnlyWithABacklog(t *testing.T) {
	t.Parallel()
	const hooks, deep = 20, 40
	var ids []string
	for n := range hooks {
		ids = append(ids, fmt.Sprint("w", n))
	}
	s := hooked(t, ids...)
	r := postrider.ClaimRequest{Max: hooks, Lease: time.Hour}
	round := func() map[string]int {
		claims, _, err := s.Claim(t.Context(), r)
		require.NoError(t, err)
		require.LessOrEqual(t, len(claims), r.Max)
		of, list := map[string]int{}, []postrider.Outcome(nil)
		for _, c := range claims {
			of[c.Webhook.ID]++
			list = append(list, delivered(c))
		}
		n, err := s.Complete(t.Context(), list)
		require.NoError(t, err)
		require.Equal(t, len(list), n)
		return of
	}
	for n := range 4 {
		require.Len(t, round(), hooks)
		_, err := s.Enqueue(t.Context(), []postrider.Item{event(fmt.Sprint("now and then ", n))})
		require.NoError(t, err)
		require.LessOrEqual(t, slices.Max(append(s.Shares(), 1)), 1)
	}
	require.Len(t, round(), hooks)
	var items []postrider.Item
	for n := range deep {
		items = append(items, event(fmt.Sprint("backlog ", n)))
	}
	_, err := s.Enqueue(t.Context(), items)
	require.NoError(t, err)
	total, most := map[string]int{}, 0
	for left := hooks * deep; left > 0; {
		of := round()
		require.NotEmpty(t, of)
		for id, n := range of {
			left -= n
			total[id] += n
		}
		most = max(most, slices.Max(append(s.Shares(), 1)))
	}
	require.Equal(t, 8, most)
	for id, n := range total {
		require.Equal(t, deep, n, id)
	}
}

// A webhook that another process was claiming of at its turn gets another one from the next Claim.
func TestClaimComesBackToWhatAnotherProcessHad(t *testing.T) {
	t.Parallel()
	h := handle{o: settings(t)}
	h.Store = open(t, h.o)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		require.NoError(t, h.CreateWebhook(t.Context(), hook(id)))
	}
	_, err := h.Enqueue(t.Context(), []postrider.Item{event("e")})
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM `+h.o.Schema+`.hold WHERE hook = (SELECT no FROM `+h.o.Schema+`.hook WHERE id = 'a') FOR UPDATE`)
	require.NoError(t, err)
	seen := map[string]bool{}
	claim := func(most, want int) time.Duration {
		claims, wait, err := h.Claim(t.Context(), postrider.ClaimRequest{Max: most, Lease: time.Hour, Each: 1})
		require.NoError(t, err)
		require.Len(t, claims, want)
		for _, c := range claims {
			require.False(t, seen[c.Webhook.ID])
			seen[c.Webhook.ID] = true
		}
		return wait
	}
	require.Zero(t, claim(2, 2))
	require.False(t, seen["a"])
	require.NoError(t, tx.Rollback(t.Context()))
	require.Zero(t, claim(2, 2))
	claim(2, 1)
	require.True(t, seen["a"])
}

// One that has little waits for a turn of those that have much, whatever the sizes of the calls.
func TestBacklogsOfOthersDoNotKeepAWebhookWaiting(t *testing.T) {
	t.Parallel()
	const idle, busy, deep = 60, 60, 150
	o := settings(t)
	s := open(t, o)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	wants := func(typ string) func(*postrider.Webhook) {
		return func(w *postrider.Webhook) { w.Events = []string{typ} }
	}
	for n := range idle {
		require.NoError(t, s.CreateWebhook(t.Context(), hook(fmt.Sprint("idle", n), wants("none"))))
	}
	for n := range busy {
		require.NoError(t, s.CreateWebhook(t.Context(), hook(fmt.Sprint("busy", n), wants("busy"))))
	}
	require.NoError(t, s.CreateWebhook(t.Context(), hook("x", wants("x"))))
	emit := func(typ string, n int) {
		item := event(fmt.Sprint(typ, n))
		item.Event.Type = typ
		_, err := s.Enqueue(t.Context(), []postrider.Item{item})
		require.NoError(t, err)
	}
	claim := func(most int) (met bool) {
		claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: most, Lease: time.Hour})
		require.NoError(t, err)
		require.Len(t, claims, most)
		var list []postrider.Outcome
		for _, c := range claims {
			met = met || c.Webhook.ID == "x"
			list = append(list, delivered(c))
		}
		_, err = s.Complete(t.Context(), list)
		require.NoError(t, err)
		return met
	}
	for n := range deep {
		emit("busy", n)
	}
	_, err := pool.Exec(t.Context(), strings.ReplaceAll("ANALYZE ~.hook, ~.hold, ~.open, ~.lease", "~", o.Schema))
	require.NoError(t, err)
	for range 40 { // until each gives 8 at a time
		claim(20)
	}
	for i, most := range []int{20, 52, 72, 102, 71, 72, 102, 52, 72} {
		emit("x", i)
		n := most
		for !claim(most) {
			n += most
			require.LessOrEqual(t, n, busy*8+2*most, "Max %d", most)
		}
	}
}
