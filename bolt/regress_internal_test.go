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
