package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

const (
	day       = 24 * time.Hour
	retention = 3 * day
)

// past is a store whose partitions reach back, so that what the test makes older finds its own.
type past struct {
	*postgres.Store
	t   *testing.T
	o   postgres.Options
	log *lines
}

// lines is a log that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newPast(t *testing.T, days int) *past {
	p := &past{t: t, o: settings(t), log: &lines{}}
	p.o.Logger = slog.New(slog.NewTextHandler(p.log, nil))
	p.Store = open(t, p.o)
	p.SetRollUp(0)
	p.SetPartitions(-1)
	for n := range days {
		p.exec(`SELECT ~.put_part(d - interval '1 day', d)
			FROM (SELECT date_trunc('day', now(), 'UTC') - $1::bigint * interval '1 day' AS d) d`, n)
	}
	require.NoError(t, p.CreateWebhook(t.Context(), hook("a")))
	return p
}

// Claim does the chores first, which are Wait's.
func (p *past) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	p.Chores(ctx)
	return p.Store.Claim(ctx, r)
}

func (p *past) exec(text string, args ...any) {
	p.t.Helper()
	_, err := pool.Exec(p.t.Context(), strings.ReplaceAll(text, "~", p.o.Schema), args...)
	require.NoError(p.t, err)
}

// dropPartitions drops some, which must be empty for what follows to hold.
func (p *past) dropPartitions(where string) {
	p.t.Helper()
	p.exec(`DO $$ DECLARE n text; BEGIN
		FOR n IN SELECT name FROM ~.part WHERE ` + where + ` LOOP EXECUTE format('DROP TABLE ~.%I', n); END LOOP; END $$`)
}

// value returns what a query says, as text.
func (p *past) value(text string, args ...any) (v string) {
	p.t.Helper()
	text = "SELECT coalesce((" + strings.ReplaceAll(text, "~", p.o.Schema) + ")::text, '')"
	require.NoError(p.t, pool.QueryRow(p.t.Context(), text, args...).Scan(&v))
	return v
}

// parts returns the partitions of a table that are over for the retention, with the identity that each has.
func (p *past) parts(table string) string {
	p.t.Helper()
	return p.value(`SELECT string_agg(name || ' ' || to_regclass('~.' || name)::oid, ', ' ORDER BY name) FROM ~.part
		WHERE parent = $1 AND ends <= now() - interval '3 days'`, table)
}

func (p *past) rows(table string) string {
	p.t.Helper()
	return p.value("SELECT count(*) FROM ~." + table)
}

// emit stores an event and returns its delivery.
func (p *past) emit(id string) string {
	p.t.Helper()
	receipts, err := p.Enqueue(p.t.Context(), []postrider.Item{event(id)})
	require.NoError(p.t, err)
	require.Len(p.t, receipts[0].Deliveries, 1)
	return receipts[0].Deliveries[0]
}

// ends has deliveries end with an attempt.
func (p *past) ends(ids ...string) { p.attempt(delivered, ids) }

// fails records a failed attempt of deliveries, which are to be tried again.
func (p *past) fails(ids ...string) { p.attempt(again, ids) }

func (p *past) attempt(outcome func(postrider.Claim) postrider.Outcome, ids []string) {
	p.t.Helper()
	for _, id := range ids {
		claims, _, err := p.Claim(p.t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Hour, Only: id})
		require.NoError(p.t, err)
		require.Len(p.t, claims, 1, id)
		n, err := p.Complete(p.t.Context(), []postrider.Outcome{outcome(claims[0])})
		require.NoError(p.t, err)
		require.Equal(p.t, 1, n)
	}
}

// prune prunes until there is no more, by at most one row each time, and returns how much each call took.
func (p *past) prune(age time.Duration) (list []int) {
	p.t.Helper()
	for {
		n, more, err := p.Prune(p.t.Context(), age, 1)
		require.NoError(p.t, err)
		list = append(list, n)
		if !more {
			return list
		}
	}
}

// counted requires that the counts are what is there.
func (p *past) counted(open, delivered, pruned int) {
	p.t.Helper()
	st, err := p.Stats(p.t.Context(), postrider.StatsQuery{})
	require.NoError(p.t, err)
	require.Equal(p.t, []int64{int64(open), int64(delivered), int64(pruned)}, []int64{st.New + st.InProcess, st.Delivered, st.Pruned})
}

// older returns the ID that one has after AgeIDs.
func (p *past) older(d time.Duration, id string) string {
	p.t.Helper()
	return p.value(`SELECT (lpad(to_hex(('x' || left(translate($1, '-', ''), 12))::bit(48)::bigint - $2::bigint), 12, '0')
		|| right(translate($1, '-', ''), 20))::uuid`, id, d.Milliseconds())
}

func TestPartitionsAreMadeAheadByOneOfFive(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.dropPartitions("true")
	st, err := p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, postgres.PartitionStats{}, st)
	made := make(chan int, 5)
	var wg sync.WaitGroup
	for range cap(made) {
		s, err := postgres.New(anotherPool(t), p.o)
		require.NoError(t, err)
		wg.Go(func() {
			n, err := s.AddPartitions(t.Context(), 10*time.Minute)
			if err != nil {
				t.Error(err)
			}
			made <- n
		})
	}
	wg.Wait()
	total := 0
	for range cap(made) {
		total += max(0, <-made)
	}
	require.Equal(t, 4, total, "made by whoever had the lock, each once")
	for _, table := range []string{"event", "delivery", "attempt"} {
		require.Equal(t, "4", p.value("SELECT count(*) FROM ~.part WHERE parent = $1", table))
	}
	require.Equal(t, "12", p.value(`SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE c.relnamespace = '~'::regnamespace AND c.relkind = 'r' AND c.relname NOT LIKE '%default'`))
	st, err = p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, 4, st.Count)
	require.Greater(t, st.Ahead, 3*day)
	require.Equal(t, 4*day, st.Until.Sub(st.From))
	n, err := p.AddPartitions(t.Context(), 0)
	require.NoError(t, err)
	require.Zero(t, n, "there are enough")
}

// Wait looks after them, and a change of Options.Partition holds for new ones.
func TestWaitMakesPartitions(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.dropPartitions("starts > now()")
	p.o.Partition = 12 * time.Hour
	s := open(t, p.o)
	require.NoError(t, s.Wait(t.Context()))
	require.NotEqual(t, "-infinity", p.value("SELECT at FROM ~.chore WHERE name = 'partitions'"))
	require.Equal(t, "12:00:00 1 day", p.value("SELECT string_agg(DISTINCT x::text, ' ' ORDER BY x::text DESC) FROM (SELECT ends - starts FROM ~.part) x(x)"))
	require.Equal(t, "true", p.value("SELECT bool_and(starts = before OR before IS NULL) FROM (SELECT starts, lag(ends) OVER (PARTITION BY parent ORDER BY lower) AS before FROM ~.part) x"))
	st, err := s.Partitions(t.Context())
	require.NoError(t, err)
	require.Greater(t, st.Ahead, 36*time.Hour)
	require.Empty(t, p.log.String())
}

func TestDroppingHistoryTakesNoRowDeletes(t *testing.T) {
	t.Parallel()
	const days = 31
	p := newPast(t, days)
	for n := range days {
		for i := range 3 {
			id := p.emit(fmt.Sprint(n, "-", i))
			if i == 0 {
				p.fails(id)
			}
			p.ends(id)
		}
		require.NoError(t, p.AgeIDs(t.Context(), day))
	}
	p.counted(0, 3*days, 0)
	require.Equal(t, fmt.Sprint(2*days), p.rows("attempt"), "those of what was not delivered at once")
	old := strings.Count(p.parts("delivery"), ",") + 1
	require.GreaterOrEqual(t, old, days-4)
	recent := p.value(`SELECT string_agg(name || to_regclass('~.' || name)::oid, ' ' ORDER BY name) FROM ~.part WHERE ends > now() - interval '3 days'`)

	list := p.prune(retention)
	whole := 0
	for _, n := range list {
		if n > 0 {
			require.Equal(t, 3, n, "all of a partition, though Prune was told one row")
			whole += n
		}
	}
	require.GreaterOrEqual(t, whole, 3*(days-4))
	for _, table := range []string{"event", "delivery", "attempt"} {
		require.Empty(t, p.parts(table), "the partitions are gone")
	}
	require.Equal(t, recent, p.value(`SELECT string_agg(name || to_regclass('~.' || name)::oid, ' ' ORDER BY name) FROM ~.part`), "the others are as they were")
	p.counted(0, 3*days-whole, whole)
	for _, table := range []string{"event", "delivery", "event_key"} {
		require.Equal(t, fmt.Sprint(3*days-whole), p.rows(table))
	}
	require.Equal(t, fmt.Sprint(2*(3*days-whole)/3), p.rows("attempt"))
	require.Equal(t, "0", p.value("SELECT n_tup_del FROM pg_stat_user_tables WHERE relid = '~.delivery_default'::regclass"))
	_, err := p.Event(t.Context(), "p", "0-0")
	require.ErrorIs(t, err, postrider.ErrNotFound)
	p.emit("0-0")
	receipts, err := p.Enqueue(t.Context(), []postrider.Item{event(fmt.Sprint(days-1, "-0"))})
	require.NoError(t, err)
	require.True(t, receipts[0].Duplicate, "what is kept is protected")
	require.Empty(t, p.log.String())
}

// Who finds another at it deletes no rows meanwhile, and everything is counted once.
func TestFiveProcessesPruneAtOnce(t *testing.T) {
	t.Parallel()
	const days = 9
	p := newPast(t, days+2)
	for n := range days {
		for i := range 4 {
			p.ends(p.emit(fmt.Sprint(n, "-", i)))
		}
		require.NoError(t, p.AgeIDs(t.Context(), day))
	}
	gone := make(chan int, 5)
	var wg sync.WaitGroup
	for range cap(gone) {
		s, err := postgres.New(anotherPool(t), p.o)
		require.NoError(t, err)
		s.SetPartitions(-1)
		wg.Go(func() {
			total := 0
			for more := true; more; {
				var n int
				var err error
				if n, more, err = s.Prune(t.Context(), retention, 2); err != nil {
					t.Error(err)
				}
				total += n
			}
			gone <- total
		})
	}
	wg.Wait()
	total := 0
	for range cap(gone) {
		total += <-gone
	}
	p.prune(retention)
	require.GreaterOrEqual(t, total, 4*(days-4))
	p.counted(0, 4*days-total, total)
	require.Equal(t, fmt.Sprint(4*days-total), p.rows("delivery"))
	require.Equal(t, fmt.Sprint(4*days-total), p.rows("event"))
	require.Equal(t, fmt.Sprint(4*days-total), p.rows("event_key"))
	require.Empty(t, p.parts("delivery")+p.parts("event")+p.parts("attempt"))
}

// What still has to be there is carried over, with its event and its attempts; the rest of its partition goes.
func TestWhatHasNotEndedKeepsItsPlace(t *testing.T) {
	t.Parallel()
	p := newPast(t, 12)
	var ids []string
	for n := range 60 {
		ids = append(ids, p.emit(fmt.Sprint(n)))
	}
	waits, late, sent, ended := ids[0], ids[1], ids[2], ids[3:]
	p.fails(waits)
	p.fails(late)
	p.ends(sent)
	p.ends(ended...)
	require.NoError(t, p.AgeIDs(t.Context(), 8*day))
	shift := func(id string) string { return p.older(8*day, id) }
	waits, late, sent = shift(waits), shift(late), shift(sent)
	p.ends(late) // eight days after it was made
	receipts, err := p.Enqueue(t.Context(), []postrider.Item{{
		Event: postrider.Event{ID: "2", Project: "p"}, To: []string{"a"}, ReplayOf: sent, Run: "run",
	}})
	require.NoError(t, err)
	again := receipts[0].Deliveries[0]
	before := p.parts("event")
	p.counted(2, 59, 0)

	list := p.prune(retention)
	require.Contains(t, list, 58, "all at once")
	p.counted(2, 1, 58)
	require.Equal(t, "3", p.rows("event"))
	require.Equal(t, "3", p.rows("event_key"))
	require.Equal(t, "3", p.rows("attempt"))
	for i, id := range []string{waits, late} {
		d, attempts, err := p.Delivery(t.Context(), id)
		require.NoError(t, err)
		require.Len(t, attempts, 1+i)
		e, err := p.Event(t.Context(), "p", d.EventID)
		require.NoError(t, err)
		require.Equal(t, event(fmt.Sprint(i)).Event.Payload, e.Payload)
	}
	_, _, err = p.Delivery(t.Context(), sent)
	require.ErrorIs(t, err, postrider.ErrNotFound)
	st, err := p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, [3]int{}, [3]int{st.Events, st.Deliveries, st.Attempts}, "nothing went astray")
	require.NotEqual(t, before, p.parts("event"))
	require.Contains(t, p.parts("event"), p.value("SELECT tableoid::regclass::oid FROM ~.event WHERE uid = (SELECT event FROM ~.open WHERE id = $1::uuid)", waits))
	after := p.parts("event") + p.parts("delivery")
	p.prune(retention)
	require.Equal(t, after, p.parts("event")+p.parts("delivery"), "what is left is not done again")

	p.ends(waits, again)
	require.NoError(t, p.AgeIDs(t.Context(), 4*day))
	p.exec("UPDATE ~.delivery SET finished = finished - interval '1 day'")
	p.prune(0)
	p.counted(0, 0, 61)
	p.prune(retention)
	for _, table := range []string{"event", "delivery", "attempt", "event_key", "replayed"} {
		require.Equal(t, "0", p.rows(table), table)
	}
	require.Empty(t, p.parts("event")+p.parts("delivery")+p.parts("attempt"))
	require.Empty(t, p.log.String())
}

func TestRowsInTheDefaultPartitionsAreCountedAndPruned(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.dropPartitions("true")
	first, second := p.emit("1"), p.emit("2")
	p.fails(first)
	p.ends(first)
	st, err := p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, postgres.PartitionStats{Events: 2, Deliveries: 1, Attempts: 2}, st)
	p.SetPartitions(0)
	p.Chores(t.Context())
	p.Chores(t.Context())
	st, err = p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, st.Count, "today's is left to the default ones, which have some of it")
	require.Equal(t, 1, strings.Count(p.log.String(), "rows are in default partitions"), p.log)
	require.NoError(t, p.AgeIDs(t.Context(), 30*day))
	require.Equal(t, []int{1}, p.prune(retention))
	p.ends(p.older(30*day, second))
	require.Equal(t, []int{0}, p.prune(retention))
	require.Equal(t, []int{1}, p.prune(0))
	st, err = p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, [3]int{}, [3]int{st.Events, st.Deliveries, st.Attempts})
}

// blocked runs f while somebody holds a lock.
func (p *past) blocked(lock string, f func()) {
	p.t.Helper()
	tx, err := pool.Begin(p.t.Context())
	require.NoError(p.t, err)
	_, err = tx.Exec(p.t.Context(), strings.ReplaceAll(lock, "~", p.o.Schema))
	require.NoError(p.t, err)
	defer func() { require.NoError(p.t, tx.Rollback(context.Background())) }()
	f()
}

func TestLocksDelayPartitionsAndNothingElse(t *testing.T) {
	t.Parallel()
	p := newPast(t, 12)
	ids := []string{p.emit("1"), p.emit("2")}
	p.ends(ids...)
	require.NoError(t, p.AgeIDs(t.Context(), 4*day))
	p.dropPartitions("starts > now()")
	p.SetPartitions(0)
	made := func() string { return p.value("SELECT count(*) FROM ~.part WHERE starts > now()") }
	p.blocked("SELECT FROM ~.attempt_default", func() {
		p.Chores(t.Context())
		p.Chores(t.Context())
	})
	require.Equal(t, "0", made())
	require.Equal(t, 1, strings.Count(p.log.String(), "partitions cannot be made"), p.log)
	p.Chores(t.Context())
	require.Equal(t, "9", made())

	before := p.parts("delivery")
	p.blocked("SELECT FROM ~.delivery", func() {
		require.Equal(t, []int{0}, p.prune(retention), "nothing is deleted row by row meanwhile")
		p.emit("3")
	})
	require.Equal(t, before, p.parts("delivery"))
	require.Equal(t, 1, strings.Count(p.log.String(), "partitions cannot be dropped"), p.log)
	p.counted(1, 2, 0)
	p.blocked("SELECT FROM ~.delivery", func() {
		require.Equal(t, []int{1, 1}, p.prune(12*time.Hour), "but for so long")
	})
	require.Contains(t, p.prune(retention), 0)
	require.Empty(t, p.parts("delivery"))
}

// plan returns the plan of a statement, every node before those below it.
func (p *past) plan(text string, args ...any) (nodes []map[string]any) {
	p.t.Helper()
	var list []map[string]any
	require.NoError(p.t, pool.QueryRow(p.t.Context(), "EXPLAIN (FORMAT JSON) "+text, args...).Scan(&list))
	var add func(n map[string]any)
	add = func(n map[string]any) {
		nodes = append(nodes, n)
		for _, below := range asList(n["Plans"]) {
			add(below.(map[string]any))
		}
	}
	add(list[0]["Plan"].(map[string]any))
	return nodes
}

func asList(v any) []any { list, _ := v.([]any); return list }

func TestLookupsPruneToOnePartitionAndPagesAreNotSorted(t *testing.T) {
	t.Parallel()
	p := newPast(t, 10)
	p.ends(p.emit("1"))
	p.emit("2") // one that is open
	p.exec(`INSERT INTO ~.delivery SELECT
			(left(~.edge(p.starts + n * interval '40 seconds')::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, event, hook, created, finished,
			last_took, attempts, last_code, last_class, status, test, replay_of, project, event_id, type, last_error
		FROM ~.delivery, ~.part p, generate_series(0, 1999) n WHERE p.parent = 'delivery'`)
	p.exec("ANALYZE ~.delivery")
	for what, text := range p.LookupSQL() {
		var seen []string
		for _, n := range p.plan(text, p.value("SELECT id FROM ~.delivery ORDER BY id DESC LIMIT 1")) {
			for _, prefix := range []string{"event_", "delivery_", "attempt_"} {
				if name, _ := n["Relation Name"].(string); strings.HasPrefix(name, prefix) && name != "event_key" {
					require.NotContains(t, name, "default")
					seen = append(seen, prefix)
				}
			}
		}
		want := []string{"event_"}
		if what == "delivery" {
			want = []string{"attempt_", "delivery_"}
		}
		require.ElementsMatch(t, want, seen, what)
	}
	for _, q := range []postrider.DeliveryQuery{
		{WebhookID: "a"}, {Project: "p"}, {}, {WebhookID: "a", EventType: "t*"}, {Project: "p", Code: "2xx"}, {WebhookID: "a", Ascending: true},
	} {
		text, args := p.PageSQL(q, 50)
		merged, history := false, 0
		for _, n := range p.plan(text, args...) {
			kind, name := n["Node Type"].(string), fmt.Sprint(n["Relation Name"])
			merged = merged || kind == "Merge Append"
			if strings.HasPrefix(name, "delivery_2") {
				require.Contains(t, kind, "Index", "%+v: %v", q, n)
				history++
			}
		}
		require.GreaterOrEqual(t, history, 10)
		require.True(t, merged, "%+v", q)
	}
}

// Partitions are made and dropped with nothing that outlives a transaction, as a pool of connections that others share
// needs it.
func TestPartitionsLeaveNothingOnTheConnection(t *testing.T) {
	t.Parallel()
	p := newPast(t, 8)
	p.ends(p.emit("1"))
	require.NoError(t, p.AgeIDs(t.Context(), 6*day))
	c := pool.Config()
	c.MaxConns, c.MinConns = 1, 1
	one, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	p.o.PollOnly = true
	s, err := postgres.New(one, p.o)
	require.NoError(t, err)
	state := func() (text string) {
		require.NoError(t, one.QueryRow(t.Context(), `
			SELECT (SELECT coalesce(string_agg(name || '=' || setting, ' ' ORDER BY name), '') FROM pg_settings WHERE source = 'session')
				|| (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
				|| (SELECT count(*) FROM pg_class WHERE relpersistence = 't')`, pgx.QueryExecModeSimpleProtocol).Scan(&text))
		return text
	}
	before := state()
	p.dropPartitions("starts > now()")
	var n int
	n, err = s.AddPartitions(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	total := 0
	for more := true; more; {
		n, more, err = s.Prune(t.Context(), retention, 10)
		require.NoError(t, err)
		total += n
	}
	require.Equal(t, 1, total)
	require.Empty(t, p.parts("delivery")+p.parts("event"))
	require.Equal(t, before, state())
}
