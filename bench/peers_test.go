package bench_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

var (
	peerEvents = flag.Int("peerevents", 10_000, "events of each phase of the benchmark of the peers")
	peerNames  = flag.String("peers", "", "subjects of the benchmark of the peers, parted by commas; all if empty")
	tablePath  = flag.String("table", "", "Markdown file that the table of the peers is written to")
)

// subject is something that takes events durably and has them delivered.
type subject struct {
	name  string
	about string // how it is set up
	// open returns an empty queue. What it needs of a server it gets from s, which has one for all rounds. An error
	// is a reason to leave the subject out.
	open func(b *testing.B, w *work, s *servers) (queue, error)
}

// subjects is what BenchmarkPeers measures: ours first, then what a Go team would use instead. Another store of ours
// is one more line, whose open calls openOurs; servers.database has an empty PostgreSQL database for it.
var subjects = []subject{
	{"bolt", "the default Config but MaxInFlight 64, fsync on", openBolt},
	{"memory", "as bolt; nothing is durable", openMemory},
	{"postgres", "PostgreSQL, fsync on; as bolt, 64 connections", openPostgres},
	{"river", "PostgreSQL, fsync on; MaxWorkers 100 and the default pool, as its documentation shows it", openRiver},
	{"river-tuned", "PostgreSQL, fsync on; FetchCooldown 5 ms, 64 workers, 64 connections", openRiverTuned},
	{"nats-always", "JetStream in this process, file store, sync_interval always, 64 workers, acks confirmed", openNATSAlways},
	{"nats", "as nats-always, but the default sync_interval: what was acknowledged is on disk 2 min later", openNATS},
	{"asynq", "Redis, appendfsync always; Concurrency 64, TaskCheckInterval 5 ms", openAsynq},
}

// queue is a subject at work. Its events are those of a work, by number.
type queue interface {
	// enqueue makes n events from number i on durable, with one call. It returns errNoBatch if n is more than one and
	// there is no such call.
	enqueue(ctx context.Context, i, n int) error
	// start begins to deliver, with 64 requests in flight.
	start(ctx context.Context) error
	// acknowledged reports whether n events are delivered, and that is durable.
	acknowledged(ctx context.Context, n int) (bool, error)
	// close stops delivering and removes everything.
	close() error
}

var (
	errNoBatch = errors.New("takes one event a call")
	errAbsent  = errors.New("not on this machine")
)

// phase is one thing that is measured of every subject.
type phase struct {
	name     string
	emitters int  // goroutines that enqueue, at the same time as there is delivery if there is any
	batch    int  // events a call
	deliver  bool // until every event is acknowledged
	backlog  bool // delivery begins when all are enqueued, and only delivery is measured
}

var phases = []phase{
	{name: "enqueue, 16 goroutines", emitters: 16, batch: 1},
	{name: "enqueue, 64 goroutines", emitters: 64, batch: 1},
	{name: "enqueue batches of 100", emitters: 1, batch: 100},
	{name: "enqueue batches of 1000", emitters: 1, batch: 1000},
	{name: "drain, 64 in flight", emitters: 1, batch: 1000, deliver: true, backlog: true},
	{name: "both, 16 goroutines", emitters: 16, batch: 1, deliver: true},
	{name: "both, 64 goroutines", emitters: 64, batch: 1, deliver: true},
}

// BenchmarkPeers measures what else takes events durably and can have them delivered, beside ours. A peer does the
// work that ours does: it makes the event durable, and then a worker takes it, posts it signed to the receiver in
// another process with what the bare loop uses, and acknowledges it durably. In every round each subject, on an empty
// store, goes through all phases, just after a run of the bare loop that its rates are compared to; the order of the
// subjects changes from round to round. What this machine has not is left out, and named.
//
// It prints a table in Markdown. With -table it also writes it into that file, between the lines that mark its place.
// Needed are PostgreSQL's server and redis-server; with the default sizes it takes about half an hour:
//
//	go test ./bench -run '^$' -bench Peers -timeout 0 -table ../docs/performance.md
func BenchmarkPeers(b *testing.B) {
	n, count := *peerEvents, *rounds
	if quick() {
		n, count = batch, 1
	}
	n = max(n/batch, 1) * batch
	w, s := newWork(b, startReceiver(b)), &servers{}
	defer s.stop(b)
	r := newReport(n, count)
	present := r.find(b, w, s)
	for b.Loop() {
		for round := range count {
			for i := range present {
				r.measure(b, w, s, present[(i+round)%len(present)], n)
			}
		}
	}
	r.versions(s)
	for _, m := range r.medians() {
		b.ReportMetric(m.ratio, m.subject+"/"+strings.NewReplacer(", ", "-", " ", "-").Replace(m.phase)+"/bare")
	}
	b.ReportMetric(0, "ns/op")
	table := r.markdown()
	fmt.Println("\n" + table) // b.Log would cut it off after ten lines
	if *tablePath != "" {
		require.NoError(b, writeTable(*tablePath, table))
	}
}

// find returns the subjects that can be measured here. Of the others it says why not, at once and in the table.
func (r *report) find(b *testing.B, w *work, s *servers) []subject {
	b.Helper()
	var present []subject
	for _, sub := range subjects {
		if *peerNames != "" && !slices.Contains(strings.Split(*peerNames, ","), sub.name) {
			continue
		}
		q, err := sub.open(b, w, s)
		if err == nil {
			err = q.close()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "LEFT OUT: %s: %v\n", sub.name, err)
			r.absent = append(r.absent, fmt.Sprintf("%s (%v)", sub.name, err))
			continue
		}
		present = append(present, sub)
	}
	require.NotEmpty(b, present, "no subject of -peers can be measured")
	r.subjects = present
	return present
}

// measure runs the bare loop and then every phase of the subject.
func (r *report) measure(b *testing.B, w *work, s *servers, sub subject, n int) {
	b.Helper()
	rates := map[string]series{}
	w.bare(b, n, rates)
	bare := rates["bare"][0]
	r.bare = append(r.bare, bare)
	for _, p := range phases {
		q, err := sub.open(b, w, s)
		require.NoError(b, err, sub.name)
		rate, err := p.run(q, p.size(n))
		require.NoError(b, q.close(), sub.name)
		if errors.Is(err, errNoBatch) {
			continue
		}
		require.NoError(b, err, "%s: %s", sub.name, p.name)
		r.add(sub.name, p.name, rate, rate/bare)
	}
}

// size is how many events of n the phase takes: all, but to show that it works not more than it needs.
func (p phase) size(n int) int {
	if quick() {
		return max(p.batch, 100)
	}
	return n
}

// patience is how long a phase may take, so that a subject that lost an event ends the benchmark.
const patience = 15 * time.Minute

// run returns the rate of n events.
func (p phase) run(q queue, n int) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rates := map[string]series{}
	var err error
	if p.backlog {
		err = p.enqueue(ctx, q, n)
		if errors.Is(err, errNoBatch) {
			err = phase{emitters: emitters, batch: 1}.enqueue(ctx, q, n)
		}
		if err != nil {
			return 0, err
		}
	}
	measure(rates, p.name, n, func(context.Context) {
		if p.deliver {
			if err = q.start(ctx); err != nil {
				return
			}
		}
		if !p.backlog {
			if err = p.enqueue(ctx, q, n); err != nil {
				return
			}
		}
		if p.deliver {
			err = untilAcknowledged(ctx, q, n)
		}
	})
	return rates[p.name].median(), err
}

// enqueue enqueues n events, which the emitters take in turn.
func (p phase) enqueue(ctx context.Context, q queue, n int) error {
	var next atomic.Int64
	errs := make([]error, p.emitters)
	var loops sync.WaitGroup
	for e := range p.emitters {
		loops.Go(func() {
			for errs[e] == nil {
				i := int(next.Add(int64(p.batch))) - p.batch
				if i >= n {
					return
				}
				errs[e] = q.enqueue(ctx, i, p.batch)
			}
		})
	}
	loops.Wait()
	return errors.Join(errs...)
}

func untilAcknowledged(ctx context.Context, q queue, n int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		all, err := q.acknowledged(ctx, n)
		if err != nil || all {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// delivering is what the workers of the peers share: they post, and count what was answered with 200.
type delivering struct {
	*poster
	posted atomic.Int64
	failed atomic.Int64
}

func newDelivering(b *testing.B, w *work) *delivering { return &delivering{poster: newPoster(b, w)} }

func (d *delivering) deliver(ctx context.Context, hook int, id string, body []byte) error {
	if err := d.post(ctx, hook, id, body); err != nil {
		d.failed.Add(1)
		return err
	}
	d.posted.Add(1)
	return nil
}

// answered reports whether n events were, and fails if a request was not: the peers would try it again, later.
func (d *delivering) answered(n int) (bool, error) {
	if failed := d.failed.Load(); failed > 0 {
		return false, fmt.Errorf("%d requests failed", failed)
	}
	return d.posted.Load() >= int64(n), nil
}

const idLen = 36 // of a UUID as text

// packed is event number i for a peer that takes bytes: the number of its webhook, a new ID, its payload.
func (w *work) packed(i int) []byte {
	payload := w.payloads[i%len(w.payloads)]
	data := make([]byte, 0, 2+idLen+len(payload))
	data = binary.BigEndian.AppendUint16(data, uint16(i%hooks))
	data = append(data, uuid.Must(uuid.NewV7()).String()...)
	return append(data, payload...)
}

// deliverPacked delivers what packed has returned.
func (d *delivering) deliverPacked(ctx context.Context, data []byte) error {
	hook, id := binary.BigEndian.Uint16(data), string(data[2:2+idLen])
	return d.deliver(ctx, int(hook), id, data[2+idLen:])
}
