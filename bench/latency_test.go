package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

const (
	latencyRate   = 200 // events a second
	latencyLoops  = 16  // goroutines that emit them in turn
	latencyEvents = 500
)

// numbered returns a work for latencies: events with their number in the payload, sent to where receipts are noted.
func (w *work) numbered(b *testing.B, base string) *work {
	b.Helper()
	numbered := &work{webhooks: slices.Clone(w.webhooks)}
	for i := range numbered.webhooks {
		numbered.webhooks[i].URL = fmt.Sprintf("%s/noted/%d", base, i)
	}
	for i := range latencyEvents {
		body := payload(b, i)
		start := fmt.Sprintf(`{"n":%d,`, i)
		// The note, the longest part, gives up as many bytes as the number takes.
		note := bytes.Index(body, []byte("All is well. "))
		body = slices.Concat([]byte(start), body[1:note], body[note+len(start)-1:])
		require.Len(b, body, payloadLen)
		numbered.payloads = append(numbered.payloads, body)
	}
	return numbered
}

// latencies emits n events at a steady rate while the queue delivers, and returns the time that each took from the
// call that emits it until the receiver had all of it, ascending.
func latencies(ctx context.Context, q queue, r *receiver, n int) ([]time.Duration, error) {
	if _, err := r.receipts(); err != nil { // those of a run that failed
		return nil, err
	}
	if err := q.start(ctx); err != nil {
		return nil, err
	}
	emitted := make([]time.Time, n)
	err := pace(ctx, n, latencyRate, latencyLoops, func(i int, from time.Time) error {
		emitted[i] = from
		return q.enqueue(ctx, i, 1)
	})
	if err != nil {
		return nil, err
	}
	if err := untilAcknowledged(ctx, q, n); err != nil {
		return nil, err
	}
	receipts, err := r.receipts()
	if err != nil {
		return nil, err
	}
	took := map[int]time.Duration{}
	for _, got := range receipts {
		if _, again := took[got.Number]; !again {
			took[got.Number] = time.Unix(0, got.At).Sub(emitted[got.Number].Round(0)) // Round: by the wall clock
		}
	}
	if len(took) != n {
		return nil, fmt.Errorf("%d of %d events were received", len(took), n)
	}
	sorted := make([]time.Duration, 0, n)
	for _, d := range took {
		sorted = append(sorted, d)
	}
	slices.Sort(sorted)
	return sorted, nil
}

// floor is what no latency can be below, and what it is allowed to be.
type floor struct {
	fdatasync time.Duration // p50 of 4 KiB appended to a file and synced
	inARow    time.Duration // the same, one after the other: some disks are slower when they were idle
	post      time.Duration // p50 of the bare loop's request, one at a time, answer included
}

// allowance is how long emit to receipt may take: the two syncs of a commit, the request, and 0.3 ms for all else.
func (f floor) allowance() time.Duration { return 2*f.fdatasync + f.post + 300*time.Microsecond }

// floor measures each n times, at the rate at which latencies are measured.
func (w *work) floor(b *testing.B, n int) (floor, error) {
	b.Helper()
	p := newPoster(b, w)
	defer p.close()
	file, err := os.Create(filepath.Join(b.TempDir(), "synced"))
	if err != nil {
		return floor{}, err
	}
	defer func() { _ = file.Close() }()
	page := make([]byte, 4<<10)
	var syncs, inARow, posts []time.Duration
	appendTo := func(took *[]time.Duration) error {
		start := time.Now()
		if _, err := file.Write(page); err != nil {
			return err
		}
		err := fdatasync(file)
		*took = append(*took, time.Since(start))
		return err
	}
	for range n {
		if err := appendTo(&inARow); err != nil {
			return floor{}, err
		}
	}
	err = pace(b.Context(), n, latencyRate, 1, func(i int, _ time.Time) error {
		if err := appendTo(&syncs); err != nil {
			return err
		}
		start := time.Now()
		err := p.post(b.Context(), i%hooks, uuid.Must(uuid.NewV7()).String(), w.payloads[i])
		posts = append(posts, time.Since(start))
		return err
	})
	if err != nil {
		return floor{}, err
	}
	for _, took := range [][]time.Duration{syncs, inARow, posts} {
		slices.Sort(took)
	}
	return floor{fdatasync: percentile(syncs, 0.5), inARow: percentile(inARow, 0.5), post: percentile(posts, 0.5)}, nil
}

// percentile returns that of an ascending list.
func percentile(sorted []time.Duration, share float64) time.Duration {
	return sorted[int(share*float64(len(sorted)-1))]
}
