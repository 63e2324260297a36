package bolt

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/postrider/postrider"
)

// audience is the webhooks of a project, in the order of their creation. It is replaced when one comes, changes or
// goes, so that whoever has one may read it without a lock. A large one has an index by pattern, which is not made anew
// each time: what has changed since is looked at one by one.
type audience struct {
	hooks   []listener // the next audience may append to it
	index   *patterns  // nil: few webhooks
	changed []int      // places below index.n that the index is wrong about, ascending
}

type listener struct {
	no      uint32
	webhook *postrider.Webhook // nil: it is gone
}

// patterns says which of the first n listeners have a pattern.
type patterns struct {
	n        int
	exact    map[string][]int // places, ascending, by the type
	prefixes map[string][]int // by what comes before the *
	lengths  []int            // of the prefixes
}

// So many listeners are looked at one by one, and of many one of so many more.
const (
	scanned   = 64
	scanOneIn = 32
)

// matching calls f for each webhook that wants events of a type, in the order of creation.
func (a *audience) matching(eventType string, f func(listener)) {
	if a.index == nil {
		for _, l := range a.hooks {
			if l.wants(eventType) {
				f(l)
			}
		}
		return
	}
	places := slices.Clone(a.index.exact[eventType])
	for _, n := range a.index.lengths {
		if n <= len(eventType) {
			places = append(places, a.index.prefixes[eventType[:n]]...)
		}
	}
	if len(a.changed) > 0 {
		places = slices.DeleteFunc(places, func(i int) bool {
			_, found := slices.BinarySearch(a.changed, i)
			return found
		})
	}
	for _, i := range a.changed {
		if a.hooks[i].wants(eventType) {
			places = append(places, i)
		}
	}
	slices.Sort(places)
	for _, i := range slices.Compact(places) {
		f(a.hooks[i])
	}
	for _, l := range a.hooks[a.index.n:] {
		if l.wants(eventType) {
			f(l)
		}
	}
}

func (l *listener) wants(eventType string) bool {
	return l.webhook != nil && l.webhook.Matches(eventType)
}

// indexed returns the audience with an index, unless few listeners would be found by it or are looked at without it.
func (a *audience) indexed() *audience {
	known := 0
	if a.index != nil {
		known = a.index.n
	}
	if len(a.changed)+len(a.hooks)-known <= scanned+len(a.hooks)/scanOneIn {
		return a
	}
	hooks := slices.DeleteFunc(slices.Clone(a.hooks), func(l listener) bool { return l.webhook == nil })
	x := &patterns{n: len(hooks), exact: map[string][]int{}, prefixes: map[string][]int{}}
	lengths := map[int]bool{}
	for i, l := range hooks {
		for _, pattern := range l.webhook.Events {
			if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
				x.prefixes[prefix] = append(x.prefixes[prefix], i)
				lengths[len(prefix)] = true
			} else {
				x.exact[pattern] = append(x.exact[pattern], i)
			}
		}
	}
	x.lengths = slices.Sorted(maps.Keys(lengths))
	return &audience{hooks: hooks, index: x}
}

// listenLocked adds a webhook to its project's audience; indexLocked is to follow.
func (s *Store) listenLocked(h *hook) {
	a := s.audience[h.webhook.Project]
	if a == nil {
		a = &audience{}
	}
	s.listensLocked(h.webhook.Project, a.with(listener{h.no, h.webhook}))
}

func (s *Store) listensLocked(project string, a *audience) {
	s.audience[project] = a
	s.retuned++
}

func (a *audience) with(l listener) *audience {
	next := *a
	next.hooks = append(a.hooks, l)
	return &next
}

// indexLocked gives a project's audience an index if it is time.
func (s *Store) indexLocked(project string) { s.listensLocked(project, s.audience[project].indexed()) }

// relistenLocked replaces a webhook in its project's audience, or takes it out if it is deleted.
func (s *Store) relistenLocked(h *hook) {
	l := listener{h.no, h.webhook}
	if h.deleted {
		l.webhook = nil
	}
	s.listensLocked(h.webhook.Project, s.audience[h.webhook.Project].but(l))
}

// but returns the audience with a listener in place of the one with its number.
func (a *audience) but(l listener) *audience {
	i, found := slices.BinarySearchFunc(a.hooks, l.no, func(l listener, no uint32) int { return cmp.Compare(l.no, no) })
	if !found {
		return a
	}
	next := *a
	next.hooks = slices.Clone(a.hooks)
	switch at, known := slices.BinarySearch(a.changed, i); {
	case a.index == nil && l.webhook == nil:
		next.hooks = slices.Delete(next.hooks, i, i+1)
		return &next
	case a.index != nil && i < a.index.n && !known:
		next.changed = slices.Insert(slices.Clone(a.changed), at, i)
	}
	next.hooks[i] = l
	return next.indexed()
}
