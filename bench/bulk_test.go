package bench_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
)

var bulkEvents = flag.Int("bulkevents", 200_000, "events of each part of the bulk benchmark")

// BenchmarkBulk measures EmitAll calls of 1000 events from one goroutine beside a bare bbolt file that gets the same
// payloads, 1000 a commit. The parts take turns:
//
//	bbolt      Put under ascending 8-byte keys, pages filled to the brim, NoFreelistSync and the freelist as a map:
//	           as fast as bbolt gets
//	generated  EmitAll with the IDs that it makes, which ascend
//	uuidv4     EmitAll with the caller's random IDs, each of which goes somewhere else in its tree
func BenchmarkBulk(b *testing.B) {
	n, count := *bulkEvents, *rounds
	if quick() {
		n, count = batch, 1
	}
	n = max(n/batch, 1) * batch
	w := newWork(b, "http://127.0.0.1:1") // nothing is sent
	parts := []struct {
		name string
		run  func(b *testing.B, n int) bulk
	}{
		{"bbolt", w.bareBulk},
		{"generated", func(b *testing.B, n int) bulk { return w.emitBulk(b, n, func() string { return "" }) }},
		{"uuidv4", func(b *testing.B, n int) bulk { return w.emitBulk(b, n, uuid.NewString) }},
	}
	rates, ratios, cpu, disk := map[string]series{}, map[string]series{}, map[string]series{}, map[string]series{}
	for b.Loop() {
		for round := range count {
			done := map[string]bulk{}
			for i := range parts {
				p := parts[(i+round)%len(parts)]
				done[p.name] = p.run(b, n)
			}
			for name, result := range done {
				rates[name] = append(rates[name], result.rate)
				ratios[name] = append(ratios[name], result.rate/done["bbolt"].rate)
				cpu[name] = append(cpu[name], result.cpu)
				disk[name] = append(disk[name], result.disk)
			}
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%d events of 1 KiB, 1000 a call, one goroutine; rounds: %d.\n\n", n, count)
	writeHeading(&table, []string{"", "events/s", "of bare bbolt", "CPU, µs", "disk, bytes"})
	for _, p := range parts {
		name := p.name
		writeRow(&table, []string{name, rates[name].String(), ratios[name].fine(), cpu[name].with(1), disk[name].String()})
		b.ReportMetric(rates[name].median(), name+"/s")
	}
	b.ReportMetric(ratios["generated"].median(), "generated/bbolt")
	b.ReportMetric(0, "ns/op")
	publish(b, "bulk", table.String(), required(map[string]string{"go.etcd.io/bbolt": "bbolt"})...)
}

// bulk is what one run came to; cpu is in microseconds an event, disk in bytes an event.
type bulk struct{ rate, cpu, disk float64 }

func newBulk(b *testing.B, results map[string]series, dir string, n int) bulk {
	size, err := onDisk(dir)
	require.NoError(b, err)
	return bulk{rate: results["bulk"][0], cpu: results["bulk cpu"][0], disk: float64(size) / float64(n)}
}

// bareBulk puts n payloads into a new bbolt file.
func (w *work) bareBulk(b *testing.B, n int) bulk {
	b.Helper()
	dir := b.TempDir()
	defer func() { require.NoError(b, os.RemoveAll(dir)) }()
	db, err := bbolt.Open(filepath.Join(dir, "bare.db"), 0o600, &bbolt.Options{
		FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true, InitialMmapSize: 1 << 30,
	})
	require.NoError(b, err)
	defer func() { require.NoError(b, db.Close()) }()
	db.AllocSize = 64 << 20
	name := []byte("events")
	require.NoError(b, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(name)
		return err
	}))
	results := map[string]series{}
	measure(results, "bulk", n, func(context.Context) {
		for i := 0; i < n && err == nil; i += batch {
			err = db.Update(func(tx *bbolt.Tx) error {
				bucket := tx.Bucket(name)
				bucket.FillPercent = 1
				for j := i; j < i+batch; j++ {
					key := binary.BigEndian.AppendUint64(nil, uint64(j))
					if err := bucket.Put(key, w.payloads[j%len(w.payloads)]); err != nil {
						return err
					}
				}
				return nil
			})
		}
	})
	require.NoError(b, err)
	return newBulk(b, results, dir, n)
}

// emitBulk emits n events with these IDs on a new file.
func (w *work) emitBulk(b *testing.B, n int, id func() string) bulk {
	b.Helper()
	dir := b.TempDir()
	defer func() { require.NoError(b, os.RemoveAll(dir)) }()
	d, shut := w.openAt(b, filepath.Join(dir, "webhooks.db"), nil)
	defer shut()
	var err error
	list := make([]postrider.Event, batch)
	results := map[string]series{}
	measure(results, "bulk", n, func(ctx context.Context) {
		for i := 0; i < n && err == nil; i += batch {
			for j := range list {
				list[j] = w.event(i + j)
				list[j].ID = id()
			}
			_, err = d.EmitAll(ctx, list)
		}
	})
	require.NoError(b, err)
	return newBulk(b, results, dir, n)
}
