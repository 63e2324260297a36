package bench_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

var (
	scaleSize  = flag.Int("scale", 10_000_000, "pending deliveries, and finished ones, in the large file of the scale benchmark")
	scaleFiles = flag.String("scalefiles", "", "folder of the scale benchmark's files: made if they are not there, kept and used again")
	scaleParts = flag.String("scaleparts", "queries,calls,open,prune,compact", "parts of the scale benchmark to run")
)

const (
	scaleSmall    = 10_000 // what the large file is compared with
	scaleBatch    = 5_000
	scaleReplayed = 1_000 // of so many events one is replayed
	scalePayload  = 256
	scaleClaims   = 64
	scaleEvents   = "only." // and a webhook's number: a type that it alone wants
)

// BenchmarkScale compares a bolt file with -scale pending and as many finished deliveries (50 webhooks, 4 types, 256
// bytes of payload) with one that has 10,000 of each:
//
//	queries  one call of each query of BenchmarkQueries, in turn on both files
//	calls    Emit, EmitAll of 1000, Claim and Complete of 1 and of 64, one caller, in turn on both files
//	open     Open after a Close, and after a process that was writing was killed, beside reading the file once in order
//	cold     the last two with nothing of the file in memory: only if asked for, by root on Linux, whose page cache it drops
//	prune    Prune of a fifth of what has finished, by 1,000, and by how much the file grows if as much comes back
//	compact  Compact into a new file
//
// and reports medians at both sizes and their ratio, the heap after a collection, and the sizes of the files. The
// smaller file has 100 rows of almost everything that is asked for, so that pages of both are full; where it has fewer,
// pages have 10 rows. With -benchtime 1x there are a thousandth of the deliveries.
func BenchmarkScale(b *testing.B) {
	large, small, rounds := *scaleSize, scaleSmall, 300
	if quick() {
		large = large / 1000
		small, rounds = large/10, 3
	}
	folder := *scaleFiles
	if folder == "" {
		folder = b.TempDir()
	}
	_ = os.Remove(scaledPath(folder, small)) // the calls add much to it
	files := []*scaled{newScaled(b, folder, small), newScaled(b, folder, large)}
	r := &scaleReport{sizes: [2]int{small, large}}
	for b.Loop() {
		for _, part := range strings.Split(*scaleParts, ",") {
			switch part {
			case "open":
				r.open(b, files)
			case "cold":
				r.cold(b, files)
			case "calls":
				r.calls(b, files, rounds)
			case "queries":
				r.queries(b, files, rounds)
			case "prune":
				r.prune(b, files)
			case "compact":
				r.compact(b, files)
			default:
				b.Fatalf("-scaleparts has %q", part)
			}
		}
	}
	publish(b, "scale", r.markdown(), required(map[string]string{"go.etcd.io/bbolt": "bbolt"})...)
	b.ReportMetric(r.worst(), "worst-ratio")
	b.ReportMetric(0, "ns/op")
}

// scaleReport is the results.
type scaleReport struct {
	sizes [2]int
	rows  []scaleRow
	notes []string
}

// scaleRow is one call at both sizes.
type scaleRow struct {
	name string
	took [2][]time.Duration
	n    [2]int // rows that came
}

func (r *scaleRow) median(i int) time.Duration {
	slices.Sort(r.took[i])
	return r.took[i][len(r.took[i])/2]
}

// ratio is that of the medians.
func (r *scaleRow) ratio() float64 {
	return float64(r.median(1)) / float64(max(r.median(0), 1))
}

func (r *scaleReport) note(b *testing.B, format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
	b.Log(r.notes[len(r.notes)-1])
}

func (r *scaleReport) worst() (worst float64) {
	for i := range r.rows {
		worst = max(worst, r.rows[i].ratio())
	}
	return worst
}

func (r *scaleReport) markdown() string {
	var s strings.Builder
	for _, note := range r.notes {
		fmt.Fprintf(&s, "- %s\n", note)
	}
	if len(r.rows) > 0 {
		s.WriteString("\n")
		writeHeading(&s, []string{
			"call, p50", fmt.Sprintf("%d pending and %d finished, µs", r.sizes[0], r.sizes[0]),
			fmt.Sprintf("%d and %d, µs", r.sizes[1], r.sizes[1]), "ratio", "rows", "rows",
		})
	}
	for i := range r.rows {
		row := &r.rows[i]
		average := func(i int) float64 { return float64(row.n[i]) / float64(len(row.took[i])) }
		writeRow(&s, []string{
			row.name, fmt.Sprintf("%.1f", micros(row.median(0))), fmt.Sprintf("%.1f", micros(row.median(1))),
			fmt.Sprintf("%.2f", row.ratio()), fmt.Sprintf("%.0f", average(0)), fmt.Sprintf("%.0f", average(1)),
		})
	}
	return s.String()
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func fileSize(b *testing.B, path string) int64 {
	b.Helper()
	info, err := os.Stat(path)
	require.NoError(b, err)
	return info.Size()
}

// highWater returns how much of a bbolt file has ever been in use: it grows in larger steps.
func highWater(b *testing.B, path string) int64 {
	b.Helper()
	f, err := os.Open(path)
	require.NoError(b, err)
	defer f.Close()
	pages, last := uint64(0), uint64(0)
	for i := range int64(2) { // of bbolt's format: the number of pages and of the transaction, in its two meta pages
		page := make([]byte, 80)
		_, err := f.ReadAt(page, i*int64(os.Getpagesize()))
		require.NoError(b, err)
		if txid := binary.NativeEndian.Uint64(page[64:]); txid >= last {
			pages, last = binary.NativeEndian.Uint64(page[56:]), txid
		}
	}
	return int64(pages) * int64(os.Getpagesize())
}

// heap returns what is in use after a collection.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers and pools let go of
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// open measures Open after Close and after a kill.
func (r *scaleReport) open(b *testing.B, files []*scaled) {
	for _, f := range files {
		f.killed(b)
		read := readOnce(b, f.path)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		f.open(b)
		killed := time.Since(start)
		runtime.ReadMemStats(&after)
		start = time.Now()
		f.close(b)
		shut := time.Since(start)
		var took []time.Duration
		for range 5 {
			start = time.Now()
			f.open(b)
			took = append(took, time.Since(start))
			f.close(b)
		}
		slices.Sort(took)
		r.note(b, "%d pending and %d finished, a file of %d MiB: Open after Close %.1f ms; after a kill %.1f ms and %d MiB allocated, where reading the file once takes %.1f ms; Close %.1f ms",
			f.n, f.n, fileSize(b, f.path)>>20, micros(took[2])/1e3, micros(killed)/1e3, (after.TotalAlloc-before.TotalAlloc)>>20, micros(read)/1e3, micros(shut)/1e3)
	}
}

// cold measures Open after a kill when the file has to come from the disk.
func (r *scaleReport) cold(b *testing.B, files []*scaled) {
	drop := func() { require.NoError(b, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)) }
	for _, f := range files {
		f.killed(b)
		drop()
		read := readOnce(b, f.path)
		drop()
		start := time.Now()
		f.open(b)
		opened := time.Since(start)
		f.close(b)
		r.note(b, "%d pending and %d finished, page cache dropped: Open after a kill %.1f ms, where reading the file once takes %.1f ms",
			f.n, f.n, micros(opened)/1e3, micros(read)/1e3)
	}
}

// readOnce reads a file in order.
func readOnce(b *testing.B, path string) time.Duration {
	b.Helper()
	start := time.Now()
	source, err := os.Open(path)
	require.NoError(b, err)
	_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{source}, make([]byte, 1<<20))
	require.NoError(b, err)
	require.NoError(b, source.Close())
	return time.Since(start)
}

// inTurn measures each call on both files in turn, so that a disturbance hits both.
func (r *scaleReport) inTurn(b *testing.B, rounds int, calls [2][]call) {
	first := len(r.rows)
	for _, c := range calls[0] {
		r.rows = append(r.rows, scaleRow{name: c.name})
	}
	for round := range rounds + rounds/10 {
		for i := range calls[0] {
			row := &r.rows[first+i]
			for size := range calls {
				start := time.Now()
				n, _, err := calls[size][i].run()
				took := time.Since(start)
				require.NoError(b, err, row.name)
				if round < rounds/10 {
					continue // to warm up
				}
				row.took[size] = append(row.took[size], took)
				row.n[size] += n
			}
		}
	}
}

// calls measures what a dispatcher calls.
func (r *scaleReport) calls(b *testing.B, files []*scaled, rounds int) {
	var calls [2][]call
	for i, f := range files {
		f.open(b)
		defer f.close(b)
		calls[i] = f.workCalls(b.Context())
	}
	last := len(calls[0]) - 1
	r.inTurn(b, max(rounds/3, 1), [2][]call{calls[0][:last], calls[1][:last]})  // the smaller file has work for so many
	r.inTurn(b, max(rounds/10, 1), [2][]call{calls[0][last:], calls[1][last:]}) // apart: later commits carry its index entries
	for _, f := range files {
		_, err := f.store.Complete(b.Context(), f.released())
		require.NoError(b, err)
	}
	r.note(b, "heap with both files open, after these calls: %.1f MiB", float64(heap())/(1<<20))
}

// queries measures each query.
func (r *scaleReport) queries(b *testing.B, files []*scaled, rounds int) {
	var calls [2][]call
	for i, f := range files {
		f.open(b)
		defer f.close(b)
		calls[i] = append(f.deliveryCalls(b.Context(), b, f.store), f.attemptCalls(b.Context(), b, f.store)...)
		calls[i] = append(calls[i], f.rowCalls(b.Context())...)
	}
	r.inTurn(b, rounds, calls)
	r.note(b, "heap with both files open, after the queries: %.1f MiB", float64(heap())/(1<<20))
}

// prune deletes a fifth of what has finished, and lets as much come back.
func (r *scaleReport) prune(b *testing.B, files []*scaled) {
	row := scaleRow{name: "Prune of 1,000"}
	for i, f := range files {
		f.open(b)
		before := highWater(b, f.path)
		stats, err := f.store.Stats(b.Context(), postrider.StatsQuery{})
		require.NoError(b, err)
		pruned := -int(stats.Pruned)
		age := f.now.Sub(f.start.Add(historySpan / 5))
		for more, n := true, 0; more; {
			start := time.Now()
			n, more, err = f.store.Prune(b.Context(), age, 1000)
			took := time.Since(start)
			require.NoError(b, err)
			if n == 1000 || f.n < 10*1000 {
				row.took[i] = append(row.took[i], took)
				row.n[i] += n
			}
		}
		stats, err = f.store.Stats(b.Context(), postrider.StatsQuery{})
		require.NoError(b, err)
		pruned += int(stats.Pruned)
		memory := heap()
		f.close(b)
		middle := highWater(b, f.path)
		start := time.Now()
		f.open(b)
		opened := time.Since(start)
		for made := 0; made < pruned; made += scaleBatch {
			n := min(scaleBatch, pruned-made)
			f.enqueue(b, n)
			f.finish(b, n)
		}
		f.close(b)
		after := highWater(b, f.path)
		r.note(b, "%d pending and %d finished: pruned %d, the file in use %d MiB before and %d MiB after, %d MiB once as many came back; heap %.1f MiB, next Open %.1f ms",
			f.n, f.n, pruned, before>>20, middle>>20, after>>20, float64(memory)/(1<<20), micros(opened)/1e3)
	}
	if len(row.took[0]) > 0 && len(row.took[1]) > 0 {
		r.rows = append(r.rows, row)
	}
}

// compact writes the files anew.
func (r *scaleReport) compact(b *testing.B, files []*scaled) {
	for _, f := range files {
		to := f.path + ".compact"
		start := time.Now()
		require.NoError(b, bolt.Compact(b.Context(), f.path, to))
		took := time.Since(start)
		r.note(b, "%d pending and %d finished: Compact of %d MiB in use into %d MiB in %.1f s", f.n, f.n, highWater(b, f.path)>>20, fileSize(b, to)>>20, took.Seconds())
		require.NoError(b, os.Remove(to))
	}
}
