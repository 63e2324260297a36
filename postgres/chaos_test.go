package postgres_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
	"github.com/postrider/postrider/postgres/internal/pgtest"
)

// The numbers that count are 200, 200 and 20: go test ./postgres -run Chaos -v -kills 200 -terminations 200 -stops 20
var (
	chaosKills        = flag.Int("kills", 12, "processes that the chaos test kills")
	chaosTerminations = flag.Int("terminations", 12, "backends of the server that it terminates")
	chaosStops        = flag.Int("stops", 2, "stops of the server, with mode immediate")
)

const (
	chaosDeliverers = 4
	chaosEmitters   = 2
	chaosPause      = 200 * time.Millisecond // between two kills
)

// noteLeasesSQL has the server note every lease: a process may be killed before the receiver hears of what it claimed.
const noteLeasesSQL = `
CREATE TABLE ~.noted (no bigint GENERATED ALWAYS AS IDENTITY, id uuid, token uuid, until timestamptz);
CREATE FUNCTION ~.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO ~.noted (id, token, until) SELECT id, token, until FROM made;
	RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT ON ~.lease REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION ~.note()`

// chaos is processes on one database, of which one after the other is killed.
type chaos struct {
	*testing.T
	server *pgtest.Server
	stops  bool // it is ours to stop
	pool   *pgxpool.Pool
	store  *postgres.Store
	o      postgres.Options
	judge  *judge
	hooks  []string

	children []*child
	started  int

	mu    sync.Mutex
	acked map[string]bool // events

	killed, terminated, stopped int
	held                        map[int]map[string]bool // by process that was killed: tokens it left behind
}

// TestChaosLosesNothing kills processes that emit and deliver, breaks their connections and crashes the server, and
// judges by what the receiver saw.
func TestChaosLosesNothing(t *testing.T) {
	t.Parallel()
	c := newChaos(t)
	for n := range chaosDeliverers + chaosEmitters {
		c.children = append(c.children, c.start(map[bool]string{true: "deliver", false: "emit"}[n < chaosDeliverers]))
	}
	require.Eventually(t, func() bool { return c.judge.requests() > 0 }, patience, 10*time.Millisecond)
	for n := range *chaosKills {
		due := func(all int) int { return all * (n + 1) / *chaosKills }
		time.Sleep(chaosPause / 2)
		for c.terminated < due(*chaosTerminations) && c.terminate() {
		}
		time.Sleep(chaosPause / 2)
		c.kill()
		if c.stops && c.stopped < due(*chaosStops) {
			c.crash()
		}
	}
	c.drain()
	c.verdict()
}

func newChaos(t *testing.T) *chaos {
	server, err := pgtest.Temporary(true)
	own := err == nil
	if errors.Is(err, pgtest.ErrNone) {
		need(t)
		server, err = pgtest.Start()
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	c := &chaos{
		T: t, server: server, stops: own, judge: newJudge(t), hooks: []string{"a", "b"}, acked: map[string]bool{},
		held: map[int]map[string]bool{}, o: postgres.Options{Schema: "chaos", UnsafeNoFsync: true},
	}
	c.pool, err = pgxpool.New(t.Context(), server.DSN)
	require.NoError(t, err)
	t.Cleanup(c.pool.Close)
	if !own {
		c.o.Schema = fresh(t).Schema
	}
	require.NoError(t, postgres.Migrate(t.Context(), c.pool, c.o))
	_, err = c.pool.Exec(t.Context(), strings.ReplaceAll(noteLeasesSQL, "~", c.o.Schema))
	require.NoError(t, err)
	c.store, err = postgres.New(c.pool, c.o)
	require.NoError(t, err)
	d, err := postrider.New(c.store, postrider.Config{Network: loopback})
	require.NoError(t, err)
	for _, name := range c.hooks {
		// Room for all that dead processes hold until their leases are over.
		_, err := d.CreateWebhook(t.Context(), postrider.Webhook{
			Name: name, URL: c.judge.URL + "/" + name, Events: []string{"*"}, MaxInFlight: 10_000,
		})
		require.NoError(t, err)
	}
	return c
}

func (j *judge) requests() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.log)
}

func (c *chaos) start(name string) *child {
	c.started++
	return startChild(c.T, name, c.started, c.server.DSN, c.o.Schema, func(line string) {
		if id, ok := strings.CutPrefix(line, "ack "); ok {
			c.mu.Lock()
			c.acked[id] = true
			c.mu.Unlock()
		}
	})
}

// kill kills one process, notes what it had in hand, and starts another in its place.
func (c *chaos) kill() {
	i := rand.IntN(len(c.children))
	v := c.children[i]
	require.ErrorContains(c, v.kill(), "signal: killed", "process %d ended by itself: %s", v.number, &v.stderr)
	c.killed++
	if v.name == "deliver" {
		c.note(v)
	}
	c.children[i] = c.start(v.name)
}

// note asks the server for the leases of a process that is no more. What it asked last may yet be recorded.
func (c *chaos) note(v *child) {
	list := query(c, "SELECT token::text FROM "+c.o.Schema+".lease WHERE until > statement_timestamp()", pgx.RowTo[string])
	c.judge.mu.Lock()
	defer c.judge.mu.Unlock()
	c.held[v.number] = map[string]bool{}
	for _, token := range list {
		if c.judge.tokens[token] == v.number {
			c.held[v.number][token] = true
		}
	}
}

// query asks until the server answers.
func query[T any](c *chaos, text string, row pgx.RowToFunc[T], args ...any) (list []T) {
	c.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var rows pgx.Rows
		if rows, err = c.pool.Query(c.Context(), text, args...); err != nil {
			continue
		}
		if list, err = pgx.CollectRows(rows, row); err == nil {
			return list
		}
	}
	require.NoError(c, err)
	return nil
}

// terminate breaks a connection of some process.
func (c *chaos) terminate() bool {
	const text = `SELECT pg_terminate_backend(pid) FROM (
		SELECT pid FROM pg_stat_activity WHERE application_name = $1 ORDER BY random() LIMIT 1) a`
	done := query(c, text, pgx.RowTo[bool], chaosApplication)
	c.terminated += len(done)
	return len(done) > 0
}

// crash stops the server as if it had crashed, and starts it again.
func (c *chaos) crash() {
	require.NoError(c, c.server.Halt())
	require.NoError(c, c.server.Launch())
	c.stopped++
}

// drain ends the emitters, waits until all is delivered, and has the others end.
func (c *chaos) drain() {
	var left []*child
	for _, v := range c.children {
		if v.name == "deliver" {
			left = append(left, v)
			continue
		}
		require.ErrorContains(c, v.kill(), "signal: killed", "%s", &v.stderr)
	}
	// What must not be is standing still for longer than a lease.
	for seen, moved := int64(-1), time.Now(); ; time.Sleep(50 * time.Millisecond) {
		stats, err := c.store.Stats(c.Context(), postrider.StatsQuery{})
		require.NoError(c, err)
		if now := stats.AttemptsOK + stats.AttemptsFailed; now != seen {
			seen, moved = now, time.Now()
		}
		if stats.Open() == 0 {
			break
		}
		require.Less(c, time.Since(moved), chaosLease+patience, "%+v", stats)
	}
	for _, v := range left {
		require.NoError(c, v.Process.Signal(syscall.SIGTERM))
	}
	for _, v := range left {
		v.read.Wait()
		require.NoError(c, v.Wait(), "process %d: %s", v.number, &v.stderr)
	}
}

func (c *chaos) verdict() {
	inFlight, most := 0, 0
	for _, tokens := range c.held {
		inFlight, most = inFlight+len(tokens), max(most, len(tokens))
	}
	leases := map[string][]lease{}
	query(c, "SELECT id::text, token::text, until FROM "+c.o.Schema+".noted ORDER BY no", func(row pgx.CollectableRow) (none struct{}, err error) {
		var id string
		var l lease
		err = row.Scan(&id, &l.token, &l.until)
		leases[id] = append(leases[id], l)
		return none, err
	})
	r := c.judge.sentence(c.held, leases)
	c.Logf("%d kills, %d connections broken, %d crashes of the server; %d events acknowledged, %d deliveries, %d requests",
		c.killed, c.terminated, c.stopped, len(c.acked), r.deliveries, r.requests)
	c.Logf("in flight at the kills %d, at most %d of one process; %d taken over, at the latest %v after their leases; %d accepted twice",
		inFlight, most, r.takenOver, r.latest.Round(time.Millisecond), r.twice)
	c.Logf("leases in between of which no request arrived: %d", r.unseen)
	require.Empty(c, r.faults[:min(len(r.faults), 20)], "%d faults", len(r.faults))
	require.LessOrEqual(c, r.twice, inFlight)
	require.Equal(c, *chaosKills, c.killed)
	require.NotEmpty(c, c.acked)
	c.judge.mu.Lock()
	defer c.judge.mu.Unlock()
	for id := range c.acked {
		for _, hook := range c.hooks {
			require.True(c, c.judge.accepted[hook+" "+id], "event %s, which was acknowledged, has not reached %s", id, hook)
		}
	}
	stats, err := c.store.Stats(c.Context(), postrider.StatsQuery{})
	require.NoError(c, err)
	require.Equal(c, stats.Total(), stats.Delivered, fmt.Sprintf("%+v", stats))
	require.EqualValues(c, len(c.judge.log), stats.Total())
}
