package bench_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

var (
	busyBacklog    = flag.Int("busybacklog", 300_000, "deliveries due behind the busy webhook of the benchmark of Claim on PostgreSQL")
	idleHooks      = flag.Int("idlehooks", 1000, "idle webhooks of that benchmark")
	claimCalls     = flag.Int("claimcalls", 500, "calls of Claim of each kind in that benchmark")
	postgresEvents = flag.Int("postgresevents", 20_000, "events of each run of the benchmarks of processes and of a long transaction")
)

// delivererEnv makes the test binary a process that delivers what is in the database that it names.
const delivererEnv = "POSTRIDER_BENCH_DELIVERER"

// deliverer delivers from the first line on standard input until its end, which comes also when the parent is gone.
func deliverer(dsn string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := postgres.New(pool, postgres.Options{})
	if err != nil {
		return err
	}
	d, err := dispatcherOn(store)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	return d.Run(ctx)
}

func dispatcherOn(store *postgres.Store) (*postrider.Dispatcher, error) {
	return postrider.New(store, postrider.Config{MaxInFlight: inFlight, Network: loopback})
}

// site is a database with a dispatcher on it.
type site struct {
	*postrider.Dispatcher
	dsn   string
	store *postgres.Store
}

// newSite returns a dispatcher on an empty database; it skips the benchmark, loudly, where there is no server, and fails
// it if POSTRIDER_POSTGRES_REQUIRED says that there must be one, as .ci/run does.
func newSite(b *testing.B, s *servers) *site {
	b.Helper()
	dsn, drop, err := s.database(b)
	if err != nil {
		require.Empty(b, os.Getenv("POSTRIDER_POSTGRES_REQUIRED"), "a server is required: %v", err)
		b.Skip("SKIPPED, NOTHING IS MEASURED: ", err)
	}
	pool, err := pgxpool.New(b.Context(), dsn)
	require.NoError(b, err)
	b.Cleanup(func() {
		pool.Close()
		require.NoError(b, drop())
	})
	store, err := migrated(b.Context(), pool)
	require.NoError(b, err)
	d, err := dispatcherOn(store)
	require.NoError(b, err)
	return &site{d, dsn, store}
}

// fill makes n events of a work, whose webhooks it creates.
func (s *site) fill(b *testing.B, w *work, n int) {
	b.Helper()
	for _, h := range w.webhooks {
		_, err := s.CreateWebhook(b.Context(), h)
		require.NoError(b, err)
	}
	for i := 0; i < n; i += batch {
		list := make([]postrider.Event, batch)
		for j := range list {
			list[j] = w.event(i + j)
		}
		_, err := s.EmitAll(b.Context(), list)
		require.NoError(b, err)
	}
}

// drained returns once n deliveries are recorded as delivered.
func (s *site) drained(b *testing.B, n int) {
	b.Helper()
	for start := time.Now(); ; {
		st, err := s.Stats(b.Context(), postrider.StatsQuery{})
		require.NoError(b, err)
		if st.Delivered >= int64(n) {
			return
		}
		time.Sleep(max(2*time.Millisecond, untilMost(n, st, start)))
	}
}

// startServers returns the servers, which end after everything that is on them.
func startServers(b *testing.B) *servers {
	s := &servers{}
	b.Cleanup(func() { s.stop(b) })
	return s
}

// BenchmarkPostgresClaim measures how long a call of Claim takes on PostgreSQL while 300,000 deliveries are due behind a
// busy webhook, one that is at its limit, beside 1,000 idle ones. Before each call events are emitted to some of the
// idle ones, one, or one each to 64; what is claimed is completed after it. A third kind of call finds something due at
// all of the idle ones and has room for 64.
func BenchmarkPostgresClaim(b *testing.B) {
	backlog, idle, calls := *busyBacklog, *idleHooks, *claimCalls
	if quick() {
		backlog, idle, calls = 2000, 100, 5
	}
	s := newSite(b, startServers(b))
	ctx := b.Context()
	hook := func(name string, most int) string {
		h, err := s.CreateWebhook(ctx, postrider.Webhook{
			Project: name, Name: "all", URL: "https://example.com/" + name, Events: types, MaxInFlight: most,
			Secrets: []postrider.Secret{postrider.NewSecret()},
		})
		require.NoError(b, err)
		return h.ID
	}
	emit := func(project func(i int) string, n int) {
		for at := 0; at < n; at += batch {
			var list []postrider.Event
			for i := at; i < min(n, at+batch); i++ {
				list = append(list, postrider.Event{Project: project(i), Type: types[0], Payload: payload(b, i)})
			}
			_, err := s.EmitAll(ctx, list)
			require.NoError(b, err)
		}
	}
	claim := func(most int) ([]postrider.Claim, time.Duration) {
		start := time.Now()
		claims, _, err := s.store.Claim(ctx, postrider.ClaimRequest{Max: most, Lease: time.Hour, MaxInFlight: inFlight})
		took := time.Since(start)
		require.NoError(b, err)
		return claims, took
	}
	complete := func(claims []postrider.Claim) {
		if len(claims) == 0 {
			return
		}
		var list []postrider.Outcome
		for _, c := range claims {
			now := time.Now()
			list = append(list, postrider.Outcome{
				DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered,
				Attempt: &postrider.Attempt{DeliveryID: c.Delivery.ID, Number: c.Delivery.Attempts + 1, Code: 200, StartedAt: now, FinishedAt: now},
			})
		}
		n, err := s.store.Complete(ctx, list)
		require.NoError(b, err)
		require.Equal(b, len(list), n)
	}
	const limit = 10
	hook("busy", limit)
	for i := range idle {
		hook(fmt.Sprint("idle-", i), 0)
	}
	emit(func(int) string { return "busy" }, backlog)
	held, _ := claim(limit + 1)
	require.Len(b, held, limit)
	// What the server has to do for the sake of the backlog it does now, not in the middle of the calls.
	conn, err := pgx.Connect(ctx, s.dsn)
	require.NoError(b, err)
	for _, sql := range []string{"VACUUM (ANALYZE)", "CHECKPOINT"} {
		_, err = conn.Exec(ctx, sql)
		require.NoError(b, err)
	}
	require.NoError(b, conn.Close(ctx))
	for b.Loop() {
		next := 0
		some := func(int) string {
			next++
			return fmt.Sprint("idle-", next%idle)
		}
		for _, kind := range []struct {
			name         string
			events, most int
		}{{"1 due", 1, 64}, {"64 due", 64, 64}, {"all due", idle, 64}} {
			var took []time.Duration
			for len(took) < calls {
				emit(some, kind.events)
				for left := kind.events; left > 0; {
					claims, t := claim(kind.most)
					require.NotEmpty(b, claims)
					took = append(took, t)
					left -= len(claims)
					complete(claims)
				}
			}
			slices.Sort(took)
			at := func(share float64) float64 { return took[int(share*float64(len(took)-1))].Seconds() * 1e3 }
			b.Logf("%-8s p50 %.2f ms, p99 %.2f ms, max %.2f ms of %d calls", kind.name, at(0.5), at(0.99), at(1), len(took))
			b.ReportMetric(at(0.5), "ms-p50-of-"+kind.name[:len(kind.name)-4]+"-due")
			b.ReportMetric(at(0.99), "ms-p99-of-"+kind.name[:len(kind.name)-4]+"-due")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// drainWith drains n events with so many processes and returns events a second and the server's processor time for an
// event, in µs. With a long transaction one that reads sees the database as it was before the events, all the time.
func drainWith(b *testing.B, w *work, s *servers, n, processes int, long bool) (rate, server float64) {
	b.Helper()
	at := newSite(b, s)
	if long {
		conn, err := pgx.Connect(b.Context(), at.dsn)
		require.NoError(b, err)
		defer func() { require.NoError(b, conn.Close(context.Background())) }()
		_, err = conn.Exec(b.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
		require.NoError(b, err)
	}
	at.fill(b, w, n)
	var inputs []io.WriteCloser
	for range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), delivererEnv+"="+at.dsn)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		require.NoError(b, err)
		out, err := cmd.StdoutPipe()
		require.NoError(b, err)
		require.NoError(b, cmd.Start())
		defer func() {
			require.NoError(b, in.Close())
			require.NoError(b, cmd.Wait())
		}()
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(b, err)
		require.Equal(b, "ready\n", line)
		inputs = append(inputs, in)
	}
	used, start := s.postgres.cpuTime(), time.Now()
	for _, in := range inputs {
		_, err := io.WriteString(in, "go\n")
		require.NoError(b, err)
	}
	at.drained(b, n)
	took := time.Since(start)
	return float64(n) / took.Seconds(), float64((s.postgres.cpuTime() - used).Microseconds()) / float64(n)
}

// amount is how many events a run takes, and how many rounds there are.
func amount() (n, count int) {
	if quick() {
		return batch, 1
	}
	return max(*postgresEvents/batch, 1) * batch, *rounds
}

// BenchmarkPostgresHorizon measures what a transaction that stays open costs: a backlog on PostgreSQL is drained by one
// process, alone and while a REPEATABLE READ transaction from before the backlog lasts, so that no dead row can go.
func BenchmarkPostgresHorizon(b *testing.B) {
	n, count := amount()
	s, w := startServers(b), newWork(b, startReceiver(b))
	results := map[string]series{}
	for b.Loop() {
		for range count {
			alone, server := drainWith(b, w, s, n, 1, false)
			beside, more := drainWith(b, w, s, n, 1, true)
			for name, v := range map[string]float64{
				"alone": alone, "beside": beside, "ratio": beside / alone, "server alone": server, "server beside": more,
			} {
				results[name] = append(results[name], v)
			}
		}
	}
	b.Logf("alone %s events/s, %s µs of the server's CPU an event; beside a long transaction %s events/s, %s µs; ratio %s", results["alone"],
		results["server alone"], results["beside"], results["server beside"], results["ratio"].fine())
	b.ReportMetric(results["ratio"].median(), "beside/alone")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPostgresProcesses measures how a backlog on PostgreSQL is drained by one, two and four processes together, on
// the machine that the server and the receiver are on as well.
func BenchmarkPostgresProcesses(b *testing.B) {
	n, count := amount()
	s, w := startServers(b), newWork(b, startReceiver(b))
	rates, ratios, server := map[int]series{}, map[int]series{}, map[int]series{}
	counts := []int{1, 2, 4}
	for b.Loop() {
		for range count {
			var one float64
			for _, k := range counts {
				rate, used := drainWith(b, w, s, n, k, false)
				if k == 1 {
					one = rate
				}
				rates[k], ratios[k], server[k] = append(rates[k], rate), append(ratios[k], rate/one), append(server[k], used)
			}
		}
	}
	for _, k := range counts {
		b.Logf("%d processes: %s events/s, %s of one, %s µs of the server's CPU an event", k, rates[k], ratios[k].fine(), server[k])
		b.ReportMetric(ratios[k].median(), strconv.Itoa(k)+"/1")
	}
	b.ReportMetric(0, "ns/op")
}
