package bolt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// shelf is a store in a file, on a clock that stands still.
type shelf struct {
	*testing.T
	*bolt.Store
	path string
	now  time.Time
	n    int
	rows []kept // in the order of commits
}

// kept is what the test knows of a delivery.
type kept struct {
	id, hook, project, typ, event string
	created, ended                time.Time
	codes                         []int // of its attempts
	status                        postrider.Status
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{T: t, path: filepath.Join(t.TempDir(), "store.db"), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	s.open()
	return s
}

func (s *shelf) open() {
	s.Helper()
	store, err := bolt.Open(s.path, bolt.Options{Now: func() time.Time { return s.now }})
	require.NoError(s, err)
	s.Store = store
	s.Cleanup(func() { _ = store.Close() })
}

// crash opens the file as it is now, without a Close.
func (s *shelf) crash() {
	s.Helper()
	content, err := os.ReadFile(s.path)
	require.NoError(s, err)
	require.NoError(s, s.Store.Close())
	s.path = filepath.Join(s.TempDir(), "copy.db")
	require.NoError(s, os.WriteFile(s.path, content, 0o600))
	checkFile(s.T, s.path)
	s.open()
}

func (s *shelf) hook(id, project, owner string) {
	s.Helper()
	require.NoError(s, s.CreateWebhook(s.Context(), postrider.Webhook{
		ID: id, Name: "name-" + id, Project: project, Owner: owner, URL: "http://x.example", Events: []string{"*"},
	}))
}

func (s *shelf) item(project, typ string, to ...string) postrider.Item {
	s.n++
	return postrider.Item{To: to, Event: postrider.Event{
		ID: fmt.Sprintf("event-%06d", s.n), Project: project, Type: typ, Time: s.now, Payload: []byte(`{}`),
	}}
}

// add stores items, each for the webhooks of its To, which are given in the order of their creation.
func (s *shelf) add(items ...postrider.Item) {
	s.Helper()
	receipts, err := s.Enqueue(s.Context(), items)
	require.NoError(s, err)
	for i, r := range receipts {
		e := items[i].Event
		require.Len(s, r.Deliveries, len(items[i].To))
		for j, id := range r.Deliveries {
			s.rows = append(s.rows, kept{id: id, hook: items[i].To[j], project: e.Project, typ: e.Type, event: e.ID, created: s.now})
		}
	}
}

// end claims what is due and ends it as f says: the code of the attempt, 0 for none, and the status after it.
func (s *shelf) end(limit int, f func(r *kept) (code int, status postrider.Status)) int {
	s.Helper()
	claims, _, err := s.Claim(s.Context(), postrider.ClaimRequest{Max: limit, Lease: time.Hour})
	require.NoError(s, err)
	at := map[string]*kept{}
	for i := range s.rows {
		at[s.rows[i].id] = &s.rows[i]
	}
	var outcomes []postrider.Outcome
	for _, c := range claims {
		r := at[c.Delivery.ID]
		code, status := f(r)
		r.codes, r.status, r.ended = append(r.codes, code), status, s.now
		a := &postrider.Attempt{
			DeliveryID: r.id, WebhookID: r.hook, Number: len(r.codes), StartedAt: s.now, FinishedAt: s.now, Timestamp: s.now.Unix(), Code: code,
		}
		if status != postrider.StatusDelivered {
			a.Failed, a.Class = true, postrider.ClassStatus
			if code == 0 {
				a.Class = postrider.ClassTimeout
			}
		}
		outcomes = append(outcomes, postrider.Outcome{DeliveryID: r.id, Token: c.Token, Attempt: a, Status: status})
	}
	if len(outcomes) > 0 {
		n, err := s.Complete(s.Context(), outcomes)
		require.NoError(s, err)
		require.Equal(s, len(outcomes), n)
	}
	return len(claims)
}

func delivered(*kept) (int, postrider.Status) { return 200, postrider.StatusDelivered }

// list returns the IDs of all pages, and how many pages were short although others followed.
func (s *shelf) list(q postrider.DeliveryQuery) (ids []string, short int) {
	s.Helper()
	limit := q.Limit
	if limit == 0 {
		limit = postrider.DefaultLimit
	}
	for pages := 0; ; pages++ {
		page, err := s.Deliveries(s.Context(), q)
		require.NoError(s, err)
		require.LessOrEqual(s, len(page.Items), limit)
		for _, d := range page.Items {
			ids = append(ids, d.ID)
		}
		if page.Next == "" {
			return ids, short
		}
		if len(page.Items) < limit {
			short++
		}
		require.NotEqual(s, q.Cursor, page.Next, "a cursor that leads to itself")
		require.Less(s, pages, 10_000)
		q.Cursor, q.Offset = page.Next, 0
	}
}

func (s *shelf) attempts(q postrider.AttemptQuery) (ids []string, short int) {
	s.Helper()
	for pages := 0; ; pages++ {
		page, err := s.Attempts(s.Context(), q)
		require.NoError(s, err)
		for _, a := range page.Items {
			ids = append(ids, a.ID())
		}
		if page.Next == "" {
			return ids, short
		}
		if len(page.Items) < q.Limit {
			short++
		}
		require.NotEqual(s, q.Cursor, page.Next, "a cursor that leads to itself")
		require.Less(s, pages, 10_000)
		q.Cursor = page.Next
	}
}

// selects compares a query, in both orders, with what f picks of the rows, and returns how many pages were short.
func (s *shelf) selects(q postrider.DeliveryQuery, f func(r *kept) bool) (short int) {
	s.Helper()
	var want []string
	for i := range s.rows {
		if f(&s.rows[i]) {
			want = append(want, s.rows[i].id)
		}
	}
	for _, ascending := range []bool{true, false} {
		q.Ascending = ascending
		got, n := s.list(q)
		short += n
		require.Equal(s, len(want), len(got), "rows of %+v", q)
		if len(want) > 0 {
			require.Equal(s, want, got, "%+v", q)
		}
		slices.Reverse(want)
	}
	return short
}

// selectsAttempts compares a query of attempts with what f picks.
func (s *shelf) selectsAttempts(q postrider.AttemptQuery, f func(r *kept, code int) bool) (short int) {
	s.Helper()
	var want []string
	for _, r := range slices.Backward(s.rows) {
		for i, code := range slices.Backward(r.codes) {
			if f(&r, code) {
				want = append(want, fmt.Sprintf("%s-%d", r.id, i+1))
			}
		}
	}
	got, short := s.attempts(q)
	require.Equal(s, len(want), len(got), "rows of %+v", q)
	if len(want) > 0 {
		require.Equal(s, want, got, "%+v", q)
	}
	return short
}

func anyRow(*kept) bool { return true }
