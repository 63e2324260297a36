package bolt

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// writes submits an op and returns how often it put or deleted.
func (s *Store) writes(t *testing.T, o *op) (n int) {
	t.Helper()
	apply := o.apply
	o.apply = func(g *group) error {
		before := g.writes
		err := apply(g)
		n = g.writes - before
		return err
	}
	require.NoError(t, s.submit(context.Background(), o))
	return n
}

func (s *Store) writesOfEmit(t *testing.T, items ...postrider.Item) int {
	t.Helper()
	p := s.newPost(items)
	return s.writes(t, &op{apply: p.apply, done: p.arriveLocked})
}

func (s *Store) writesOfOutcome(t *testing.T, failed bool) int {
	t.Helper()
	claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Minute})
	require.NoError(t, err)
	require.Len(t, claims, 1)
	a := postrider.Attempt{DeliveryID: claims[0].Delivery.ID, Number: 1, StartedAt: time.Now(), FinishedAt: time.Now(), Code: 200, Failed: failed}
	b, _ := a.AppendBinary(nil)
	status := postrider.StatusDelivered
	if failed {
		status = postrider.StatusInProcess
	}
	c := &completion{s: s, results: []result{{
		outcome: postrider.Outcome{DeliveryID: a.DeliveryID, Token: claims[0].Token, Status: status, RetryIn: time.Hour}, attempt: b, failed: failed, code: 200,
	}}}
	return s.writes(t, &op{apply: c.apply, done: c.doneLocked, undo: c.undoLocked})
}

// What writes cost follows from how many there are, and where. Without an order nothing is paid for lanes.
func TestWritesOfEmitsAndOutcomes(t *testing.T) {
	t.Parallel()
	s, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{})
	require.NoError(t, err)
	for _, id := range []string{"plain", "other"} {
		require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: id, Name: id, URL: "http://x.example", Events: []string{"*"}}))
	}
	n := 0
	item := func(to, key string) postrider.Item {
		n++
		return postrider.Item{To: []string{to}, Event: postrider.Event{ID: fmt.Sprintf("%06d", n), Type: "a", Payload: []byte("1"), OrderKey: key}}
	}
	require.Equal(t, 2, s.writesOfEmit(t, item("plain", "")), "log and key")
	require.Equal(t, 1, s.writesOfOutcome(t, false), "done")
	all := item("", "")
	all.To = nil
	require.Equal(t, 2, s.writesOfEmit(t, all), "log and key, whatever the number of webhooks")
	require.Equal(t, 1, s.writesOfOutcome(t, false))
	require.Equal(t, 1, s.writesOfOutcome(t, false))

	require.Equal(t, 3, s.writesOfEmit(t, item("other", "k")), "lane too")
	require.Equal(t, 5, s.writesOfEmit(t, item("other", "k")), "and two in odd for what is parked")
	require.Equal(t, 4, s.writesOfOutcome(t, false), "done; out of lane; the next in lane and retry")
	require.Equal(t, 5, s.writesOfOutcome(t, false), "done; out of odd twice, retry and lane")
	require.Equal(t, 2, s.writesOfEmit(t, item("other", "")))
	require.Equal(t, 1, s.writesOfOutcome(t, false), "no lane is left")
	require.NoError(t, s.Check())
	require.NoError(t, s.Close())
}

// A key whose hash is that of none still has a lane.
func TestKeysHaveAHash(t *testing.T) {
	t.Parallel()
	require.NotZero(t, keyHash(""))
	require.NotEqual(t, keyHash("a"), keyHash("b"))
	for _, to := range []target{5, 5 | targetOwn, 5 | targetParked, 5 | targetOwn | targetParked} {
		require.EqualValues(t, 5, to.hook())
		l, ok := to.lane(0)
		require.Equal(t, to&targetOwn != 0, ok)
		require.Zero(t, l.hash)
		l, ok = to.lane(9)
		require.True(t, ok)
		require.Equal(t, to&targetOwn == 0, l.hash == 9)
		require.Equal(t, to&targetParked != 0, l.parked)
	}
}
