package postgres

import (
	"context"
	"time"
)

// lockChoreSQL returns a row if no other process is at a chore. It then is not either until the transaction ends.
const lockChoreSQL = `SELECT name FROM ~.chore WHERE name = $1 FOR UPDATE SKIP LOCKED`

// choresTime bounds the chores of one Wait: whoever polls must not stand still behind a lock of theirs for long.
const choresTime = 10 * time.Second

// chores does what has to be done now and then, if this process has not tried to for a while. That it fails matters to
// nobody: the next one will do it. Wait calls it, since a busy dispatcher does not wait for Wait: Claims would be late.
func (s *Store) chores(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, choresTime)
	defer cancel()
	due := s.sinceThen(&s.rolledUp, s.rollUpGap)
	for n := 0; due && n < 10; n++ {
		rolled, err := s.rollUp(ctx)
		due = err == nil && rolled == rollUpMost
	}
	if s.sinceThen(&s.coarsened, s.coarsenGap) {
		_ = s.coarsen(ctx)
	}
	if s.sinceThen(&s.parts.tried, s.parts.gap) {
		s.makePartitions(ctx)
	}
}

// sinceThen reports whether an instant was so long ago, and sets it to now if it was.
func (s *Store) sinceThen(then *time.Time, gap time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(*then) < gap {
		return false
	}
	*then = time.Now()
	return true
}
