package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/postrider/postrider"
)

// The group commit. A commit costs two syncs whatever it holds, so that all calls that arrive while one is under way
// share the next. There is no goroutine: the first caller leads, the others follow.
//
//	G1 A call joins the queue. If nobody leads, it leads: it takes the head of the queue as a group, runs it in one
//	   transaction, makes the next in the queue the leader, and answers the group.
//	G2 A leader leads one group, its own, so that no caller works for others for ever.
//	G3 apply checks everything before its first write. Its error concerns its own call; the group goes on.
//	G4 Memory follows the disk: done runs after the commit, and undo if there was none. Between them nothing that the
//	   group touches can be handed out.
//	G5 A follower whose context ends goes. If its group runs already, the outcome is unknown; else nothing is stored.
//	   So apply uses nothing of the caller's: whatever it needs was copied before, or is being copied in a call that
//	   does not return before that has ended, see post.
//	G6 A group is sealed at maxGroup bytes, and an op that is alone shares its group with nobody.
//	G7 A panic in apply rolls back and fails its whole group; it does not travel into other callers.
type committer struct {
	mu    sync.Mutex // guards what follows
	queue []*op
	busy  bool // somebody leads, or was told to
	full  time.Time
	err   error // of a sync: nothing is written any more

	// Of the leader alone.
	groups uint64 // transactions so far
	arena  arena  // for the next one
}

const (
	maxGroup  = 4 << 20
	fullPause = time.Second // after a commit found no room, calls fail at once for so long
)

// op is one call's part of a group.
type op struct {
	apply func(*group) error // within the transaction
	done  func()             // after the commit, with Store.mu held
	undo  func()             // after apply was called and there was no commit, with Store.mu held; may be nil
	size  int                // bytes it will write, about
	alone bool

	wake    chan struct{} // buffered(1): answered, or told to lead
	running bool          // guarded by committer.mu
	leads   bool          // likewise
	applied bool
	err     error
}

// submit runs an op in a group and returns its error.
func (s *Store) submit(ctx context.Context, o *op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &s.commits
	o.wake = make(chan struct{}, 1)
	c.mu.Lock()
	if err := c.refusal(); err != nil {
		c.mu.Unlock()
		return err
	}
	c.queue = append(c.queue, o)
	if c.busy {
		c.mu.Unlock()
		if led, err := s.follow(ctx, o); !led {
			return err
		}
	} else {
		c.busy = true
		c.mu.Unlock()
	}
	s.lead()
	return o.err
}

// refusal says why nothing can be written now. It is called with mu held.
func (c *committer) refusal() error {
	if c.err != nil {
		return c.err
	}
	if !c.full.IsZero() && time.Now().Before(c.full) {
		return fmt.Errorf("%w: there was no room less than %v ago", postrider.ErrFull, fullPause)
	}
	return nil
}

// refused is refusal for those who do not hold mu.
func (c *committer) refused() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusal()
}

// follow waits for the op's group to be committed by another, or for the op to be told to lead.
func (s *Store) follow(ctx context.Context, o *op) (leads bool, err error) {
	c := &s.commits
	select {
	case <-o.wake:
		return o.leads, o.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !o.running {
		for i := range c.queue {
			if c.queue[i] == o {
				c.queue = append(c.queue[:i], c.queue[i+1:]...)
				break
			}
		}
		if o.leads {
			c.promote()
		}
	}
	return false, ctx.Err()
}

// promote makes the head of the queue the leader. It is called with mu held.
func (c *committer) promote() {
	c.busy = len(c.queue) > 0
	if c.busy {
		c.queue[0].leads = true
		c.queue[0].wake <- struct{}{}
	}
}

// take removes the next group from the queue.
func (c *committer) take() []*op {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size := 0, 0
	for n < len(c.queue) && size < maxGroup && (n == 0 || !c.queue[n].alone && !c.queue[0].alone) {
		c.queue[n].running = true
		size += c.queue[n].size
		n++
	}
	ops := slices.Clone(c.queue[:n])
	c.queue = append(c.queue[:0], c.queue[n:]...)
	clear(c.queue[len(c.queue):cap(c.queue)])
	return ops
}

// gather waits for as long as the queue grows: the callers that were answered last are about to come back, and would
// have to wait for the commit after this one. It needs no timer, and costs a lone caller nothing.
func (c *committer) gather() {
	for known := 0; ; {
		c.mu.Lock()
		n := len(c.queue)
		c.mu.Unlock()
		if n == known {
			return
		}
		known = n
		runtime.Gosched()
	}
}

// lead runs the next group and answers it, also if that panics.
func (s *Store) lead() {
	s.commits.gather()
	ops := s.commits.take()
	err := errLost
	defer func() {
		s.commits.mu.Lock()
		s.commits.promote()
		s.commits.mu.Unlock()
		for _, o := range ops {
			if o.err == nil {
				o.err = err
			}
			if !o.leads {
				o.wake <- struct{}{}
			}
		}
	}()
	// Another's commit may have failed while these waited.
	if err = s.commits.refused(); err == nil {
		err = errLost
		err = s.run(ops)
		s.commits.note(err)
	}
}

// errLost is the answer of a group whose leader panicked outside of its transaction.
var errLost = fmt.Errorf("%w: panic in a commit", postrider.ErrStore)

// note remembers what keeps the store from writing.
func (c *committer) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = time.Time{}
	switch {
	case errors.Is(err, postrider.ErrFull):
		c.full = time.Now().Add(fullPause)
	case errors.Is(err, errSync):
		c.err = err
	}
}

// run applies the ops in one transaction and commits it. Its error concerns all of them.
func (s *Store) run(ops []*op) (err error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return classify(err)
	}
	s.commits.groups++
	g := &group{s: s, tx: tx, no: s.commits.groups, arena: s.commits.arena}
	defer func() { s.commits.arena = g.arena.reset() }() // after the transaction
	committed := false
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic in a write: %v\n%s", postrider.ErrStore, p, debug.Stack())
		}
		if !committed {
			_ = tx.Rollback()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, o := range ops {
			switch {
			case o.applied && o.err == nil && err == nil:
				if o.done != nil {
					o.done()
				}
			case o.applied && o.undo != nil:
				o.undo()
			}
		}
		if committed {
			g.committedLocked()
		}
	}()
	if err := g.begin(); err != nil {
		return err
	}
	for _, o := range ops {
		before := g.writes
		o.applied = true
		if o.err = o.apply(g); o.err != nil && g.writes != before {
			return o.err // against G3, so that nobody's writes may stand; only damage does this
		}
	}
	if g.writes == 0 {
		return nil
	}
	if err := g.end(); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return classify(err)
	}
	committed = true
	return nil
}

// errSync marks the failure after which nothing that was written can be trusted to be on disk: the kernel forgets
// pages that it could not write.
var errSync = errors.New("sync failed; open the file again")

// classify turns bbolt's errors into the contract's. Nothing is stored when there was no room. Errors of growing the
// file come as text only (bbolt formats them with %s).
func classify(err error) error {
	var errno syscall.Errno
	var write *os.PathError
	text := err.Error()
	switch {
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return postrider.ErrClosed
	case errors.As(err, &errno) && !errors.As(err, &write):
		// A bare errno comes from fdatasync. Also one that says "no room" is late: pages may be lost, or the commit is there.
		return fmt.Errorf("%w: %w: %w", postrider.ErrStore, errSync, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG), errors.Is(err, berrors.ErrMaxSizeReached),
		strings.HasPrefix(text, "file resize error:"):
		return fmt.Errorf("%w: %w", postrider.ErrFull, err)
	case strings.HasPrefix(text, "file sync error:"):
		return fmt.Errorf("%w: %w: %w", postrider.ErrStore, errSync, err)
	case errors.As(err, &errno):
		// Another failed write is not safe to go on after either.
		return fmt.Errorf("%w: %w: %w", postrider.ErrStore, errSync, err)
	}
	return fmt.Errorf("%w: %w", postrider.ErrStore, err)
}
