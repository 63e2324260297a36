package bench_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	peerEvents = flag.Int("peerevents", 10_000, "events of each phase of the benchmark of the peers; slow subjects get a part of them")
	peerNames  = flag.String("peers", "", "subjects of the benchmark of the peers, parted by commas; all if empty")
	peerPhases = flag.String("phases", "", "regular expression of the phases of the benchmark of the peers; all if empty")
)

// subject is something that takes events durably and has them delivered.
type subject struct {
	name  string
	about string // how it is set up
	// open returns an empty queue that will have so many requests in flight. What it needs of a server it gets from s,
	// which has one for all rounds. An errAbsent leaves the subject out, and a missing the phase.
	open   func(b *testing.B, w *work, s *servers, inFlight int) (queue, error)
	server func(*servers) *process // whose processor time and memory are the server's; nil if there is none
	part   int                     // one in so many of the events is enough; 0: all
	sync   time.Duration           // what is added to each sync
	only   string                  // regular expression of the phases that say something; all if empty
}

// subjects is what BenchmarkPeers measures: ours first, then what a Go team would use instead.
var subjects = []subject{
	{name: "bolt", about: "the default Config but MaxInFlight 64, fsync on", open: openBolt},
	{name: "bolt, fasthttp", about: "as bolt, but its Sender uses fasthttp: what the HTTP client costs; not a sender that we support",
		open: openBoltFast, only: "drain|both"},
	{name: "bolt, 5 ms sync", about: "as bolt, with 5 ms added to each of the two syncs of a commit: what a slow disk does",
		open: openBoltSlow, part: 10, sync: slowSync},
	{name: "memory", about: "as bolt; nothing is durable", open: openMemory},
	{name: "postgres", about: "PostgreSQL, fsync on; as bolt, 64 connections", open: openPostgres, server: theirPostgres, part: 5},
	{name: "river", about: "PostgreSQL, fsync on; MaxWorkers 100 and the default pool, as its documentation shows it",
		open: openRiver, server: theirPostgres, part: 10},
	{name: "river-tuned", about: "PostgreSQL, fsync on; FetchCooldown 5 ms, 64 workers, 64 connections",
		open: openRiverTuned, server: theirPostgres, part: 5},
	{name: "nats-always", about: "JetStream in this process, file store, sync_interval always, 64 workers, acks confirmed",
		open: openNATSAlways, part: 2},
	{name: "nats", about: "as nats-always, but the default sync_interval: what was acknowledged is on disk 2 min later", open: openNATS},
	{name: "asynq", about: "Redis, appendfsync always; Concurrency 64, TaskCheckInterval 5 ms", open: openAsynq, server: theirRedis, part: 4},
}

func theirPostgres(s *servers) *process { return s.postgres }
func theirRedis(s *servers) *process    { return s.redis }

// queue is a subject at work. Its events are those of a work, by number.
type queue interface {
	// enqueue makes n events from number i on durable, with one call. It returns a missing if n is more than one and
	// there is no such call.
	enqueue(ctx context.Context, i, n int) error
	// start begins to deliver.
	start(ctx context.Context) error
	// acknowledged reports whether n events are delivered, and that is durable.
	acknowledged(ctx context.Context, n int) (bool, error)
	// disk returns how many bytes of disk it takes.
	disk(ctx context.Context) (int64, error)
	// close stops delivering and removes everything.
	close() error
}

// missing is why a subject has no results of a phase.
type missing string

func (m missing) Error() string { return string(m) }

const missingBatch = missing("no such call")

var errAbsent = errors.New("not on this machine")

// BenchmarkPeers measures what else takes events durably and can have them delivered, beside ours. A peer does the
// work that ours does: it makes the event durable, and then a worker takes it, posts it signed to the receiver in
// another process with what the bare loop uses, and acknowledges it durably. In every round each subject, on an empty
// store, goes through all phases, between two runs of the bare loop that its rates are compared to; the order of the
// subjects changes from round to round. What this machine has not is left out, and named.
//
// It prints tables in Markdown. With -table it also writes them into that file, in its section "peers". Needed are
// PostgreSQL's server and redis-server; with the default sizes it takes about ten minutes:
//
//	go test ./bench -run '^$' -bench Peers -timeout 0 -table ../docs/performance.md
func BenchmarkPeers(b *testing.B) {
	n, count := *peerEvents, *rounds
	if quick() {
		n, count = batch, 1
	}
	n = max(n/batch, 1) * batch
	re, err := regexp.Compile(*peerPhases)
	require.NoError(b, err)
	s := &servers{}
	defer s.stop(b)
	r := newReport(n, count)
	for _, p := range phases {
		if quick() && p.inFlight != 0 {
			continue // another number in flight shows nothing more
		}
		if re.MatchString(p.name) {
			r.phases = append(r.phases, p)
		}
	}
	require.NotEmpty(b, r.phases, "no phase is called as -phases says")
	f := newField(b, s)
	present := r.find(b, f)
	for b.Loop() {
		for round := range count {
			for i := range present {
				sub := present[(i+round)%len(present)]
				progress("round %d of %d: %s", round+1, count, sub.name)
				r.measure(b, f, sub)
			}
		}
	}
	for _, p := range r.phases {
		for _, sub := range present {
			if ratio := r.cell(sub.name, p.name).figures["ratio"]; len(ratio) > 0 && p.deliver {
				unit := strings.NewReplacer(", ", "-", " ", "-").Replace(sub.name + "/" + p.name + "/bare")
				b.ReportMetric(ratio.median(), unit)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	publish(b, "peers", r.markdown(), s.versions()...)
}

// progress says on standard error what goes on.
func progress(format string, args ...any) {
	if !quick() {
		fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
	}
}

// field is what all subjects are measured on.
type field struct {
	receiver *receiver
	servers  *servers
	work     *work
	numbered *work // for latencies: its events have numbers, and the receiver notes when it gets which
}

func newField(b *testing.B, s *servers) *field {
	b.Helper()
	r := newReceiver(b)
	w := newWork(b, r.url)
	return &field{receiver: r, servers: s, work: w, numbered: w.numbered(b, r.url)}
}

// find returns the subjects that can be measured here. Of the others it says why not, at once and in the tables.
func (r *report) find(b *testing.B, f *field) []subject {
	b.Helper()
	for _, sub := range subjects {
		if *peerNames != "" && !slices.Contains(strings.Split(*peerNames, ","), sub.name) {
			continue
		}
		q, err := sub.open(b, f.work, f.servers, inFlight)
		if err == nil {
			err = q.close()
		}
		if !errors.Is(err, errAbsent) {
			require.NoError(b, err, sub.name)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "LEFT OUT: %s: %v\n", sub.name, err)
			r.absent = append(r.absent, fmt.Sprintf("%s (%v)", sub.name, err))
			continue
		}
		r.subjects = append(r.subjects, sub)
	}
	require.NotEmpty(b, r.subjects, "no subject of -peers can be measured")
	return r.subjects
}

// measure runs the phases of the subject between two runs of the bare loop.
func (r *report) measure(b *testing.B, f *field, sub subject) {
	b.Helper()
	only := regexp.MustCompile(sub.only)
	results := map[string]result{}
	bare := []float64{r.bare(b, f)}
	for _, p := range r.phases {
		if !only.MatchString(p.name) {
			r.cell(sub.name, p.name).missing = "as bolt"
			continue
		}
		measured, err := p.measure(b, f, sub, p.size(r.events, sub))
		var m missing
		if errors.As(err, &m) {
			r.cell(sub.name, p.name).missing = m.Error()
			continue
		}
		require.NoError(b, err, "%s: %s", sub.name, p.name)
		results[p.name] = measured
		progress("%s: %s: %.0f events/s in %v", sub.name, p.name, measured.rate(), measured.took.Round(time.Millisecond))
	}
	bare = append(bare, r.bare(b, f))
	for name, measured := range results {
		r.add(sub.name, name, measured, (bare[0]+bare[1])/2)
	}
}

// bare runs the bare loop, as another subject with a phase of its own.
func (r *report) bare(b *testing.B, f *field) (rate float64) {
	b.Helper()
	rates := map[string]series{}
	u := metered(f.receiver, nil, func() { f.work.bare(b, r.events, rates) })
	rate = rates["bare"][0]
	u.took = time.Duration(float64(r.events) / rate * float64(time.Second)) // without what prepares it
	r.add("bare", "bare", result{usage: u, events: r.events}, rate)
	return rate
}
