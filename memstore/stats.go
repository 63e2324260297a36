package memstore

import (
	"context"
	"fmt"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/queue"
)

// tally is what is counted of a webhook by time. It is guarded by Store.mu.
type tally struct {
	parked  int64           // deliveries that wait for their turn in a lane
	retries map[int64]int64 // those that wait for a retry, by the minute of its time
	dues    queue.Entries   // every delivery that is not parked, also in flight; some that are no more, see waits
	minutes map[int64]postrider.Rate
	hours   map[int64]postrider.Rate
}

const (
	minute = int64(time.Minute / time.Microsecond)
	hour   = int64(time.Hour / time.Microsecond)
)

// floor returns how many units have begun and ended by t, also before 1970.
func floor(t, unit int64) int64 {
	if t < 0 {
		return -1 - (-1-t)/unit
	}
	return t / unit
}

// retry counts a delivery that waits for a retry at due, or no longer does.
func (t *tally) retry(due, by int64) {
	if t.retries == nil {
		t.retries = map[int64]int64{}
	}
	at := floor(due, minute)
	if t.retries[at] += by; t.retries[at] == 0 {
		delete(t.retries, at)
	}
}

// attempt counts an attempt that is recorded now.
func (t *tally) attempt(failed bool, now int64) {
	if t.minutes == nil {
		t.minutes, t.hours = map[int64]postrider.Rate{}, map[int64]postrider.Rate{}
	}
	bump(t.minutes, floor(now, minute), failed, int64(len(postrider.Rates{}.Minutes)))
	bump(t.hours, floor(now, hour), failed, int64(len(postrider.Rates{}.Hours)))
}

// bump counts an attempt at a time, and forgets times that are over when there are twice as many as are kept.
func bump(counts map[int64]postrider.Rate, at int64, failed bool, keep int64) {
	r := counts[at]
	if failed {
		r.Failed++
	} else {
		r.OK++
	}
	counts[at] = r
	if int64(len(counts)) > 2*keep {
		for old := range counts {
			if old <= at-keep {
				delete(counts, old)
			}
		}
	}
}

// waits notes when a delivery is due. Entries that no longer hold are dropped when they come to the top, or when they
// are more than the others.
func (t *tally) waits(h *hook, e queue.Entry) {
	t.dues.Push(e)
	if len(t.dues) <= 2*len(h.open)+64 {
		return
	}
	t.dues = nil
	for _, d := range h.open {
		if !d.parked {
			t.dues.Push(queue.Entry{Seq: d.seq, Due: d.due})
		}
	}
}

// waits reports whether an entry is still true of its delivery.
func (h *hook) waits(e queue.Entry) bool {
	d := h.open[e.Seq]
	return d != nil && d.due == e.Due && !d.parked
}

// oldest returns when the delivery that is due longest was due, zero if none is.
func (h *hook) oldest(now int64) time.Time {
	dues := &h.tally.dues
	for len(*dues) > 0 && !h.waits((*dues)[0]) {
		dues.Pop()
	}
	if len(*dues) == 0 || (*dues)[0].Due > now {
		return time.Time{}
	}
	return instant((*dues)[0].Due)
}

// Stats returns counts.
func (s *Store) Stats(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
	if err := s.lock(ctx); err != nil {
		return postrider.Stats{}, err
	}
	defer s.mu.Unlock()
	if q.WebhookID != "" && s.byID[q.WebhookID] == nil {
		return postrider.Stats{}, fmt.Errorf("webhook %q: %w", q.WebhookID, postrider.ErrNotFound)
	}
	now := s.micros()
	var st postrider.Stats
	if q.Rates {
		st.Rates = new(postrider.Rates)
	}
	for _, h := range s.hooks {
		if (q.WebhookID == "" || q.WebhookID == h.ID) && (q.Project == "" || q.Project == h.Project) && (q.Owner == "" || q.Owner == h.Owner) {
			of := s.statsLocked(h, now, q.Rates)
			st.Add(&of)
		}
	}
	return st, nil
}

func (s *Store) statsLocked(h *hook, now int64, rates bool) postrider.Stats {
	st := h.stats
	st.InFlight = int64(h.place.Held())
	st.Due = st.New - h.tally.parked
	for at, n := range h.tally.retries {
		if at <= floor(now, minute) {
			st.Due += n
		}
	}
	st.OldestDue = h.oldest(now)
	if rates {
		st.Rates = new(postrider.Rates)
		fill(st.Rates.Minutes[:], h.tally.minutes, floor(now, minute))
		fill(st.Rates.Hours[:], h.tally.hours, floor(now, hour))
	}
	return st
}

// fill takes the counts up to now into a list that ends with it.
func fill(list []postrider.Rate, counts map[int64]postrider.Rate, now int64) {
	for i := range list {
		list[i] = counts[now-int64(len(list)-1-i)]
	}
}
