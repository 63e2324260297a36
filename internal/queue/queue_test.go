package queue_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/queue"
)

// list is a Source of what it is given.
type list struct {
	queue.Entries
	load bool
}

func (l *list) Head() (queue.Entry, queue.Answer) {
	switch {
	case l.load:
		return queue.Entry{}, queue.Load
	case len(l.Entries) == 0:
		return queue.Entry{}, queue.None
	}
	return l.Entries[0], queue.Have
}

func (l *list) Pop() { l.Entries.Pop() }

func newHook(b *queue.Board, no uint32, id string, dues ...int64) (*queue.Hook, *list) {
	l := &list{}
	for i, due := range dues {
		l.Push(queue.Entry{Seq: uint64(i + 1), Due: due})
	}
	h := &queue.Hook{No: no, ID: id, Open: true, Source: l}
	b.Add(h, 5)
	return h, l
}

func claim(b *queue.Board, r queue.Request, now int64) (refs []queue.Ref, claims []*queue.Claim, wait int64) {
	r.Lease = time.Second
	claims, _, wait = b.Claim(r, now)
	for _, c := range claims {
		refs = append(refs, queue.Ref{Seq: c.Seq, Hook: c.Hook.No})
	}
	return refs, claims, wait
}

func TestHooksTakeTurns(t *testing.T) {
	t.Parallel()
	b := queue.New("t")
	newHook(b, 1, "a", 1, 2, 3, 4)
	newHook(b, 2, "b", 1)
	newHook(b, 3, "c", 1, 2)
	refs, _, wait := claim(b, queue.Request{Max: 4}, 10)
	require.Equal(t, []queue.Ref{{1, 1}, {1, 2}, {1, 3}, {2, 1}}, refs)
	require.Zero(t, wait)
	refs, _, wait = claim(b, queue.Request{Max: 4}, 10)
	require.Equal(t, []queue.Ref{{2, 3}, {3, 1}, {4, 1}}, refs, "the next call goes on where the last one ended")
	require.Equal(t, time.Second.Microseconds(), wait, "until the first lease is over")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	b := queue.New("t")
	h, _ := newHook(b, 1, "a", 1, 1, 1, 1, 1)
	refs, _, _ := claim(b, queue.Request{Max: 9, Limits: map[string]int{"a": 0}}, 10)
	require.Empty(t, refs)
	refs, _, wait := claim(b, queue.Request{Max: 9, Each: 1}, 10)
	require.Len(t, refs, 1)
	require.Equal(t, time.Second.Microseconds(), wait, "what the caller keeps back does not count")
	h.Window = 3
	b.Touch(h, 10)
	refs, claims, _ := claim(b, queue.Request{Max: 9}, 10)
	require.Len(t, refs, 2)
	b.Drop(claims[0], false, 10)
	refs, _, _ = claim(b, queue.Request{Max: 9, MaxInFlight: 2}, 10)
	require.Empty(t, refs, "the request's MaxInFlight is below what is held")
	refs, _, _ = claim(b, queue.Request{Max: 9}, 10)
	require.Len(t, refs, 1)
}

func TestTimeBringsHooksBack(t *testing.T) {
	t.Parallel()
	b := queue.New("t")
	h, _ := newHook(b, 1, "a", 50)
	refs, _, wait := claim(b, queue.Request{Max: 9}, 10)
	require.Empty(t, refs)
	require.EqualValues(t, 40, wait)
	h.NotBefore = 70
	b.Touch(h, 10)
	_, _, wait = claim(b, queue.Request{Max: 9}, 50)
	require.EqualValues(t, 20, wait)
	refs, _, _ = claim(b, queue.Request{Max: 9}, 70)
	require.Len(t, refs, 1)
	_, _, wait = claim(b, queue.Request{Max: 9}, 70)
	require.Equal(t, time.Second.Microseconds(), wait)
}

func TestLeases(t *testing.T) {
	t.Parallel()
	b := queue.New("t")
	h, _ := newHook(b, 1, "a", 1, 2)
	_, claims, _ := claim(b, queue.Request{Max: 1}, 10)
	first := claims[0]
	require.Same(t, first, b.Find(queue.Ref{Seq: 1, Hook: 1}))
	require.Equal(t, 1, h.Held())
	over := 10 + time.Second.Microseconds()
	require.Empty(t, b.Expired(over-1))
	first.Settling = true
	require.Empty(t, b.Expired(over), "the outcome is being written")
	first.Settling = false
	require.Equal(t, []*queue.Claim{first}, b.Expired(over))
	b.Drop(first, true, over)
	_, claims, _ = claim(b, queue.Request{Max: 2}, over)
	require.Len(t, claims, 2)
	require.EqualValues(t, 1, claims[0].Seq)
	require.NotEqual(t, first.Token, claims[0].Token)
	require.Equal(t, 2, b.Held())
}

func TestLeasesOfDifferentLengthsEndInOrder(t *testing.T) {
	t.Parallel()
	b := queue.New("t")
	h, _ := newHook(b, 1, "a")
	for i, lease := range []time.Duration{5, 2, 9, 2, 7} {
		b.Hold(h, queue.Entry{Seq: uint64(i)}, lease*time.Microsecond, 0)
	}
	var seqs []uint64
	for now := range int64(10) {
		for _, c := range b.Expired(now) {
			seqs = append(seqs, c.Seq)
			b.Drop(c, false, now)
		}
	}
	require.Equal(t, []uint64{1, 3, 0, 4, 2}, seqs)
	require.Zero(t, h.Held())
}

func TestLoadTakesAHookOutUntilItIsTouched(t *testing.T) {
	t.Parallel()
	b := queue.New("t")
	h, l := newHook(b, 1, "a")
	l.load = true
	b.Touch(h, 0)
	_, load, _ := b.Claim(queue.Request{Max: 1, Lease: 1}, 5)
	require.Equal(t, []*queue.Hook{h}, load)
	_, load, _ = b.Claim(queue.Request{Max: 1, Lease: 1}, 5)
	require.Empty(t, load)
	l.load = false
	l.Push(queue.Entry{Seq: 3, Due: 1})
	b.Touch(h, 5)
	refs, _, _ := claim(b, queue.Request{Max: 1}, 5)
	require.Equal(t, []queue.Ref{{3, 1}}, refs)
}

func TestEntriesComeInOrder(t *testing.T) {
	t.Parallel()
	var s queue.Entries
	var want []queue.Entry
	for i := range 500 {
		e := queue.Entry{Seq: uint64(i * 7919 % 500), Due: int64(i * 104729 % 31)}
		s.Push(e)
		want = append(want, e)
	}
	slices.SortFunc(want, func(a, b queue.Entry) int {
		if a.Due != b.Due {
			return int(a.Due - b.Due)
		}
		return int(a.Seq) - int(b.Seq)
	})
	for _, e := range want {
		require.Equal(t, e, s.Pop())
	}
	require.Empty(t, s)
}
