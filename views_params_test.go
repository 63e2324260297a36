package postrider_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/views"
)

// fact is what a test knows of a delivery that it made.
type fact struct {
	id       string
	typ      string
	status   postrider.Status
	code     int
	attempts []bool // failed
	created  time.Time
}

// stock fills a shelf with n deliveries of webhook w in project p, and returns them in the order in which they were
// made, 1.5 ms apart. Beside each there is one of another webhook, which must never show.
func stock(s *shelf, n int) (facts []fact) {
	s.t.Helper()
	s.hook("w", inProject("p", "o"))
	s.hook("other", inProject("q", "o"), func(w *postrider.Webhook) { w.Name = "w" })
	for i := range n {
		f := fact{typ: "x", created: s.now}
		if i%3 == 0 {
			f.typ = "y.z"
		}
		f.id = s.emit("p", f.typ, fmt.Sprint(i))[0]
		s.emit("q", f.typ, fmt.Sprint(i))
		for _, code := range [][]int{{}, {500}, {0}, {503, 0}, {404, 599, 100}, {200}, {500, 200}, {0, 0}, {}, {500}}[i%10] {
			s.attempt(f.id, code, 25*time.Millisecond, postrider.StatusInProcess)
			f.status, f.attempts = postrider.StatusInProcess, append(f.attempts, true)
			if code != 0 {
				f.code = code
			}
		}
		switch i % 10 {
		case 5, 6: // once more, and delivered
			f.status, f.code, f.attempts = postrider.StatusDelivered, 200, append(f.attempts, false)
			s.attempt(f.id, 200, time.Millisecond, f.status)
		case 7:
			f.status, f.attempts = postrider.StatusFailed, append(f.attempts, true)
			s.attempt(f.id, 0, time.Second, f.status)
		case 8, 9:
			f.status = postrider.StatusCanceled
			s.cancel(f.id)
		}
		facts = append(facts, f)
		s.pass(1500 * time.Microsecond)
	}
	return facts
}

// selects is the plain meaning of a query.
func (f *fact) selects(q postrider.HistoryQuery) bool {
	to := q.To
	if to.Nanosecond()%1e6 == 0 { // a whole millisecond includes what is shown as created in it
		to = to.Add(999_999)
	}
	return (q.ResponseCode == 0 || q.ResponseCode == f.code) &&
		(len(q.Statuses) == 0 || slices.Contains(q.Statuses, f.status)) &&
		(q.Event == "" || q.Event == f.typ) &&
		(q.From.IsZero() || !f.created.Before(q.From)) && (q.To.IsZero() || !f.created.After(to)) &&
		len(f.attempts) >= q.MinAttempts
}

func selected(facts []fact, q postrider.HistoryQuery) []string {
	ids := []string{}
	skip, limit := q.Offset, q.Limit
	if limit == 0 {
		limit = 100
	}
	for _, f := range slices.Backward(facts) {
		switch {
		case !f.selects(q):
		case skip > 0:
			skip--
		case len(ids) < limit:
			ids = append(ids, f.id)
		}
	}
	return ids
}

func idsOf[T any](rows []T, id func(*T) string) []string {
	ids := []string{}
	for i := range rows {
		ids = append(ids, id(&rows[i]))
	}
	return ids
}

func pastID(v *views.PastEvent) string { return v.ID }

func dispatchID(v *views.Dispatch) string { return v.ID }

func eventID(v *views.WebhookEvent) string { return v.ID }

func TestParametersOfHistory(t *testing.T) {
	const rows = 130
	at := func(i int) time.Time { return shelfStart.Add(time.Duration(i) * 1500 * time.Microsecond) }
	type query = postrider.HistoryQuery
	one := func(s postrider.Status) []postrider.Status { return []postrider.Status{s} }
	cases := []struct {
		name string
		q    query
		bad  []string // the parameters that are refused
		rows int      // how many are given; -1 for as many as the plain filter says, which is then not none
	}{
		{"absent", query{}, nil, 100},
		{"limit at the lower bound", query{Limit: 1}, nil, 1},
		{"limit at the upper bound", query{Limit: 100}, nil, 100},
		{"limit below", query{Limit: -1}, []string{"limit"}, 0},
		{"limit above", query{Limit: 101}, []string{"limit"}, 0},
		{"limit far above", query{Limit: math.MaxInt}, []string{"limit"}, 0},
		{"offset within", query{Offset: 40}, nil, 90},
		{"offset 1", query{Offset: 1}, nil, 100},
		{"offset on the last", query{Offset: rows - 1}, nil, 1},
		{"offset behind the last", query{Offset: rows}, nil, 0},
		{"offset at the upper bound", query{Offset: 100_000}, nil, 0},
		{"offset below", query{Offset: -1}, []string{"offset"}, 0},
		{"offset above", query{Offset: 100_001}, []string{"offset"}, 0},
		{"code at the lower bound", query{ResponseCode: 100}, nil, -1},
		{"code at the upper bound", query{ResponseCode: 599}, nil, 0},
		{"code that came before a time-out", query{ResponseCode: 503}, nil, -1},
		{"code", query{ResponseCode: 200}, nil, -1},
		{"code of none", query{ResponseCode: 418}, nil, 0},
		{"code below", query{ResponseCode: 99}, []string{"responseCode"}, 0},
		{"code above", query{ResponseCode: 600}, []string{"responseCode"}, 0},
		{"code negative", query{ResponseCode: -200}, []string{"responseCode"}, 0},
		{"status NEW", query{Statuses: one(postrider.StatusNew)}, nil, -1},
		{"status IN_PROCESS", query{Statuses: one(postrider.StatusInProcess)}, nil, -1},
		{"status DELIVERED", query{Statuses: one(postrider.StatusDelivered)}, nil, -1},
		{"status CANCELED", query{Statuses: one(postrider.StatusCanceled)}, nil, -1},
		{"status FAILED", query{Statuses: one(postrider.StatusFailed)}, nil, -1},
		{"no status", query{Statuses: []postrider.Status{}}, nil, 100},
		{"two statuses", query{Statuses: []postrider.Status{postrider.StatusFailed, postrider.StatusNew}}, nil, -1},
		{"status of none", query{Statuses: one(5)}, []string{"status"}, 0},
		{"event", query{Event: "y.z"}, nil, -1},
		{"event of none", query{Event: "y"}, nil, 0},
		{"event of one letter", query{Event: "x"}, nil, -1},
		{"event at the upper bound", query{Event: strings.Repeat("x", 128)}, nil, 0},
		{"event above", query{Event: strings.Repeat("x", 129)}, []string{"event"}, 0},
		{"event is no pattern", query{Event: "y.*"}, []string{"event"}, 0},
		{"event is not every event", query{Event: "*"}, []string{"event"}, 0},
		{"event with a space", query{Event: "x "}, []string{"event"}, 0},
		{"from the first", query{From: at(0), Limit: 100}, nil, 100},
		{"from the last", query{From: at(rows - 1)}, nil, 1},
		{"from behind the last", query{From: at(rows - 1).Add(time.Microsecond)}, nil, 0},
		{"from in another zone", query{From: at(rows - 2).In(time.FixedZone("", 3600))}, nil, 2},
		{"from of the year 10000", query{From: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{"from"}, 0},
		{"to the first", query{To: at(0)}, nil, 1},
		{"to before the first", query{To: at(0).Add(-time.Microsecond)}, nil, 0},
		{"to the last", query{To: at(rows - 1)}, nil, 100},
		{"to the millisecond in which a row shows", query{To: at(1).Truncate(time.Millisecond)}, nil, 2},
		{"to a part of that millisecond", query{To: at(1).Add(-100 * time.Microsecond)}, nil, 1},
		{"to of the year 10000", query{To: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{"to"}, 0},
		{"from and to the same", query{From: at(8), To: at(8)}, nil, 1},
		{"from and to", query{From: at(8), To: at(12)}, nil, 5},
		{"to before from", query{From: at(8), To: at(7)}, []string{"to"}, 0},
		{"attempts at the lower bound", query{MinAttempts: 0}, nil, 100},
		{"attempts 1", query{MinAttempts: 1, Limit: 100}, nil, -1},
		{"attempts 3", query{MinAttempts: 3}, nil, -1},
		{"attempts of none", query{MinAttempts: 4}, nil, 0},
		{"attempts at the upper bound", query{MinAttempts: math.MaxInt32}, nil, 0},
		{"attempts below", query{MinAttempts: -1}, []string{"minAttempts"}, 0},
		{"attempts above", query{MinAttempts: math.MaxInt32 + 1}, []string{"minAttempts"}, 0},
		{"project", query{Project: "p/q"}, []string{"project"}, 0},
		{"combined", query{ResponseCode: 500, Statuses: one(postrider.StatusInProcess), Event: "x", From: at(3), To: at(90), MinAttempts: 1, Limit: 3, Offset: 1}, nil, 3},
		{"combined, of none", query{ResponseCode: 500, Statuses: one(postrider.StatusNew)}, nil, 0},
		{
			"everything at once",
			query{Project: "?", Limit: 101, Offset: -1, ResponseCode: 99, Statuses: one(9), Event: "?", From: at(1), To: at(0), MinAttempts: -1},
			[]string{"project", "limit", "offset", "responseCode", "status", "event", "to", "minAttempts"}, 0,
		},
	}
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		facts := stock(s, rows)
		for _, c := range cases {
			if c.q.Project == "" {
				c.q.Project = "p"
			}
			got, err := s.History(t.Context(), "w", c.q)
			if c.bad != nil {
				require.Equal(t, c.bad, invalidNames(t, err), c.name)
				require.Equal(t, c.bad, invalidNames(t, c.q.Validate()), c.name)
				require.Nil(t, got, c.name)
				continue
			}
			require.NoError(t, err, c.name)
			want := selected(facts, c.q)
			if c.rows < 0 {
				require.NotEmpty(t, want, c.name)
			} else {
				require.Len(t, want, c.rows, c.name)
			}
			require.Equal(t, want, idsOf(got, pastID), c.name)
		}

		// Random queries against the plain filter.
		seed := uint64(time.Now().UnixNano())
		r := rand.New(rand.NewPCG(seed, 0))
		some := func() bool { return r.IntN(3) == 0 }
		for range 300 {
			q := query{Project: "p"}
			if some() {
				q.Limit = 1 + r.IntN(100)
			}
			if some() {
				q.Offset = r.IntN(rows)
			}
			if some() {
				q.ResponseCode = []int{100, 200, 404, 500, 503, 599}[r.IntN(6)]
			}
			for r.IntN(4) == 0 {
				q.Statuses = append(q.Statuses, postrider.Status(r.IntN(5)))
			}
			if some() {
				q.Event = []string{"x", "y.z", "y"}[r.IntN(3)]
			}
			if some() {
				q.From = at(r.IntN(rows))
			}
			if some() {
				q.To = at(r.IntN(rows)).Add(time.Duration(r.IntN(1000)) * time.Microsecond)
			}
			if some() {
				q.MinAttempts = r.IntN(5)
			}
			got, err := s.History(t.Context(), "w", q)
			if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
				require.Equal(t, []string{"to"}, invalidNames(t, err))
				continue
			}
			require.NoError(t, err)
			require.Equal(t, selected(facts, q), idsOf(got, pastID), "seed %d: %+v", seed, q)
		}
	})
}

func TestNamesOfHistory(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		longest := strings.Repeat("n", 64)
		s.hook("h", func(w *postrider.Webhook) { w.Name = longest })
		s.hook("p", inProject("p", ""))
		for _, c := range []struct {
			project, name string
			want          error
		}{
			{"", longest, nil},
			{"p", "p", nil},
			{"", "p", postrider.ErrNotFound},
			{"p", longest, postrider.ErrNotFound},
			{"", "h", postrider.ErrNotFound}, // an ID is no name
			{"", "absent", postrider.ErrNotFound},
			{"", "", postrider.ErrInvalid},
			{"", longest + "n", postrider.ErrInvalid},
			{"", "a.b", postrider.ErrInvalid},
			{"", "a/b", postrider.ErrInvalid},
			{"", "ä", postrider.ErrInvalid},
		} {
			got, err := s.History(t.Context(), c.name, postrider.HistoryQuery{Project: c.project})
			require.ErrorIs(t, err, c.want, "%q", c.name)
			require.Equal(t, c.want == nil, got != nil)
			if c.want == postrider.ErrInvalid {
				require.Equal(t, []string{"name"}, invalidNames(t, err))
			}
		}
		_, err := s.History(t.Context(), "", postrider.HistoryQuery{Limit: -1})
		require.Equal(t, []string{"name", "limit"}, invalidNames(t, err))
	})
}

func TestParametersOfDispatches(t *testing.T) {
	const rows = 30
	type query = postrider.DispatchQuery
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		facts := stock(s, rows)
		for _, c := range []struct {
			name  string
			q     query
			bad   []string
			limit int // as it is echoed
			rows  int
		}{
			{"absent", query{}, nil, 1000, rows},
			{"limit at the lower bound", query{Limit: 1}, nil, 1, 1},
			{"limit at the upper bound", query{Limit: 1000}, nil, 1000, rows},
			{"limit is clamped", query{Limit: 1001}, nil, 1000, rows},
			{"limit is clamped however large", query{Limit: math.MaxInt}, nil, 1000, rows},
			{"limit below", query{Limit: -1}, []string{"limit"}, 0, 0},
			{"offset within", query{Offset: 10}, nil, 1000, rows - 10},
			{"offset on the last", query{Offset: rows - 1}, nil, 1000, 1},
			{"offset behind the last", query{Offset: rows}, nil, 1000, 0},
			{"offset at the upper bound", query{Offset: 100_000}, nil, 1000, 0},
			{"offset below", query{Offset: -1}, []string{"offset"}, 0, 0},
			{"offset above", query{Offset: 100_001}, []string{"offset"}, 0, 0},
			{"desc", query{Desc: true}, nil, 1000, rows},
			{"combined", query{Desc: true, Offset: 3, Limit: 4}, nil, 4, 4},
			{"combined, ascending", query{Offset: 3, Limit: 4}, nil, 4, 4},
			{"everything at once", query{Offset: -1, Limit: -1}, []string{"offset", "limit"}, 0, 0},
		} {
			c.q.WebhookID = "w"
			got, err := s.Dispatches(t.Context(), c.q)
			if c.bad != nil {
				require.Equal(t, c.bad, invalidNames(t, err), c.name)
				require.Equal(t, c.bad, invalidNames(t, c.q.Validate()), c.name)
				require.Zero(t, got, c.name)
				continue
			}
			require.NoError(t, err, c.name)
			want := []string{}
			for _, f := range facts {
				want = append(want, f.id)
			}
			if c.q.Desc {
				slices.Reverse(want)
			}
			want = want[min(c.q.Offset, rows):]
			want = want[:min(len(want), c.limit)]
			require.Len(t, want, c.rows, c.name)
			require.Equal(t, want, idsOf(got.Items, dispatchID), c.name)
			got.Items = nil
			require.Equal(t, views.DispatchList{
				Total: rows, Offset: c.q.Offset, Limit: c.limit, Desc: c.q.Desc, Count: c.rows,
			}, got, c.name)
		}
		all, err := s.Dispatches(t.Context(), query{})
		require.NoError(t, err)
		require.Equal(t, int64(2*rows), all.Total)
		for _, d := range all.Items {
			one, err := s.Dispatch(t.Context(), d.ID)
			require.NoError(t, err)
			require.Equal(t, one, d)
		}
		for _, id := range []string{"absent", "no id at all!", strings.Repeat("w", 1000)} {
			_, err := s.Dispatches(t.Context(), query{WebhookID: id})
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
	})
}
