package postgres_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// With an age that is too short to drop what has rows, the empty ones go.
func TestPartitionsDoNotPileUpWhileRowsAreDeleted(t *testing.T) {
	t.Parallel()
	p := newPast(t, 8)
	p.ends(p.emit("1"))
	require.NoError(t, p.AgeIDs(t.Context(), 6*day))
	waits := p.older(day, p.emit("2"))
	require.NoError(t, p.AgeIDs(t.Context(), day))
	p.prune(12 * time.Hour)
	require.Empty(t, p.parts("event")+p.parts("delivery")+p.parts("attempt"))
	p.counted(1, 0, 1)
	_, _, err := p.Delivery(t.Context(), waits)
	require.NoError(t, err)
	require.Empty(t, p.log.String())
}

// What was made while the server's clock was ahead keeps none from being made when it is right again, and does not count
// as ahead.
func TestPartitionsAreMadeAfterTheServersClockWasAhead(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.dropPartitions("starts > now() + interval '1 day'")
	p.exec("SELECT ~.put_part(d, d + interval '1 day') FROM date_trunc('day', now() + interval '1 year', 'UTC') d")
	p.exec("UPDATE ~.chore SET at = now() + interval '1 year' WHERE name = 'partitions'")
	st, err := p.Partitions(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, st.Ahead, 2*day)
	n, err := p.AddPartitions(t.Context(), 10*time.Minute)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	st, err = p.Partitions(t.Context())
	require.NoError(t, err)
	require.Greater(t, st.Ahead, 3*day)
	require.LessOrEqual(t, st.Ahead, 4*day)
	p.dropPartitions("starts < now()")
	st, err = p.Partitions(t.Context())
	require.NoError(t, err)
	require.Zero(t, st.Ahead, "what is stored now goes to the default ones")
	p.emit("1")
	st, err = p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, st.Events)
}

// An event in the default partition goes too when its last delivery goes with a partition.
func TestEventsInTheDefaultPartitionGoWithTheirDeliveries(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.ends(p.emit("1"))
	require.NoError(t, p.AgeIDs(t.Context(), 5*day))
	sent := p.value("SELECT id FROM ~.delivery")
	receipts, err := p.Enqueue(t.Context(), []postrider.Item{{
		Event: postrider.Event{ID: "1", Project: "p"}, To: []string{"a"}, ReplayOf: sent, Run: "run",
	}})
	require.NoError(t, err)
	p.ends(receipts[0].Deliveries...)
	require.Equal(t, []int{1}, p.prune(retention))
	require.Equal(t, "1", p.rows("event_default"), "the other delivery is of it")
	p.exec("SELECT ~.put_part(d - interval '9 days', d - interval '7 days') FROM date_trunc('day', now(), 'UTC') d")
	require.NoError(t, p.AgeIDs(t.Context(), 8*day))
	require.Equal(t, "0", p.rows("delivery_default"))
	p.prune(retention)
	p.counted(0, 0, 2)
	for _, table := range []string{"event", "delivery", "attempt", "event_key", "replayed"} {
		require.Equal(t, "0", p.rows(table), table)
	}
}

// A partition that is over since the last look is left for the next one.
func TestWhatIsOverSinceTheLastLookIsNotDeletedByRow(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.ends(p.emit("1"))
	p.exec("SELECT ~.put_part(now() - interval '4 days', now() - interval '3 days 30 minutes')")
	require.NoError(t, p.AgeIDs(t.Context(), retention+2*time.Hour))
	require.Equal(t, "0", p.rows("delivery_default"))
	p.LookedForPartitions(time.Hour)
	require.Equal(t, []int{0}, p.prune(retention))
	p.SetPartitions(-1)
	require.Equal(t, 1, p.prune(retention)[0])
	require.Empty(t, p.parts("delivery"))
}

func TestTroubleWithPartitionsIsLoggedOnceThoughOthersAreAtIt(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	list, _, _ := strings.Cut(grants(t, p.o.Schema, p.o.Schema+"_app"), "GRANT EXECUTE")
	s, err := postgres.New(roleOf(t, p.o.Schema, list), p.o)
	require.NoError(t, err)
	s.SetPartitions(0)
	step := func() {
		s.Chores(t.Context())
		_, _, err := s.Prune(t.Context(), retention, 1)
		require.NoError(t, err)
	}
	step()
	p.blocked("SELECT FROM ~.chore WHERE name <> 'rollup' FOR SHARE", step)
	step()
	for _, message := range []string{"partitions cannot be made", "partitions cannot be dropped"} {
		require.Equal(t, 1, strings.Count(p.log.String(), message), p.log)
	}
}

// The statement of docs/postgres.md that makes partitions by hand: beside others, and over a change of the clocks.
func TestDocumentedPartitionsCanBeMade(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/postgres.md")
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(text), "SELECT postrider.put_part(")
	require.True(t, ok)
	statement, _, _ := strings.Cut("SELECT postrider.put_part("+after, "```")
	for _, now := range []string{"now()", "'2031-03-08 12:00Z'::timestamptz"} {
		p := newPast(t, 0)
		p.exec("SELECT ~.put_part(d, d + interval '24 hours') FROM date_trunc('day', '2031-03-09'::timestamptz, 'UTC') d")
		statement := strings.NewReplacer("postrider", p.o.Schema, "now()", now).Replace(statement)
		require.NoError(t, runSQL(t, pool, "BEGIN; SET LOCAL TimeZone = 'America/New_York';"+statement+"; COMMIT"))
		require.Equal(t, "00", p.value("SELECT DISTINCT to_char(starts AT TIME ZONE 'UTC', 'HH24') FROM ~.part"))
	}
}

// A Close that waits for the chores keeps none of them from ending.
func TestCloseWaitsForChores(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.SetPartitions(0)
	ended := make(chan error, 2)
	p.blocked("LOCK TABLE ~.chore IN ACCESS EXCLUSIVE MODE", func() {
		go func() {
			var err error
			for err == nil { // something may be due
				err = p.Wait(t.Context())
			}
			ended <- err
		}()
		require.Eventually(t, func() bool {
			return p.value(`SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '~.chore'::regclass`) != "0"
		}, 10*time.Second, 5*time.Millisecond)
		go func() { ended <- p.Close() }()
		require.Eventually(t, p.Closing, 10*time.Second, 5*time.Millisecond)
	})
	require.ElementsMatch(t, []error{nil, postrider.ErrClosed}, []error{<-ended, <-ended})
}
