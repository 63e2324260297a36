package bolt

import (
	"context"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// Those that wait for a commit whose sync fails are refused like those that come after it.
func TestThoseWhoWaitAreRefusedAfterAFailedSync(t *testing.T) {
	t.Parallel()
	s, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{})
	require.NoError(t, err)
	second := make(chan error, 1)
	var tried atomic.Bool
	first := s.submit(context.Background(), &op{alone: true, apply: func(*group) error {
		go func() {
			second <- s.submit(context.Background(), &op{alone: true, apply: func(*group) error { tried.Store(true); return nil }})
		}()
		for waits := false; !waits; time.Sleep(time.Millisecond) {
			s.commits.mu.Lock()
			waits = len(s.commits.queue) > 0
			s.commits.mu.Unlock()
		}
		return nil
	}, done: func() {
		s.commits.mu.Lock()
		defer s.commits.mu.Unlock()
		s.commits.err = classify(syscall.EIO)
	}})
	require.NoError(t, first)
	require.ErrorIs(t, <-second, postrider.ErrStore)
	require.False(t, tried.Load(), "a commit after a failed sync")
	require.NoError(t, s.Close())
}

// Where room is found late, fdatasync is what fails, and then the pages, or the commit, may be there or not.
func TestNoRoomInASyncIsNotFull(t *testing.T) {
	t.Parallel()
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		require.ErrorIs(t, classify(&fs.PathError{Op: "write", Path: "x", Err: errno}), postrider.ErrFull)
		err := classify(errno)
		require.ErrorIs(t, err, errSync)
		require.NotErrorIs(t, err, postrider.ErrFull)
	}
}

// What a Change that cancels finds claimed is marked before anybody can give it back: else it would go out again.
func TestClaimCannotBeGivenBackBetweenFoundAndMarked(t *testing.T) {
	t.Parallel()
	s, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{})
	require.NoError(t, err)
	require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
	_, err = s.Enqueue(t.Context(), []postrider.Item{{Event: postrider.Event{ID: "e", Type: "a", Payload: []byte(`1`), Time: time.Now()}}})
	require.NoError(t, err)
	claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Hour})
	require.NoError(t, err)
	require.Len(t, claims, 1)
	c := &completion{s: s, results: []result{{outcome: postrider.Outcome{DeliveryID: claims[0].Delivery.ID, Token: claims[0].Token}}}}

	x := &changing{s: s, Change: postrider.Change{Kind: postrider.ChangeCancel, Max: 1}}
	held, _, marked := x.hold(s.hooks[0], queue.Entry{Seq: 1})
	require.True(t, marked)
	require.False(t, c.release(), "given back without a write, as if it were not to be canceled")
	x.marked = append(x.marked, held)
	s.mu.Lock()
	x.undoLocked() // without a commit it is a claim like any other
	s.mu.Unlock()
	require.True(t, c.release())
	require.Equal(t, 1, c.n)
	require.NoError(t, s.Close())
}
