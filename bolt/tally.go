package bolt

import (
	"encoding/binary"
	"slices"

	"github.com/postrider/postrider"
)

// Tallies are counts by time, in the bucket tally. Webhook 0 is the whole store.
//
//	'm' minute8 hook4 -> ok-varint failed-varint   attempts recorded in a minute that is over
//	'h' hour8 hook4   -> ok-varint failed-varint   the same of an hour
//	'd' hook4 minute8 -> n-varint                  deliveries whose retry is due in that minute, if there are any
//
// The present minute and hour are in stat, so that a healthy outcome writes nothing here. They come here with the first
// attempt that is recorded later; a row is added to, since the clock may go back. All webhooks of a minute are
// neighbours: they are written together, and deleted together once they are over.
const (
	tallyMinute = 'm'
	tallyHour   = 'h'
	tallyDue    = 'd'

	minute = 60_000_000 // microseconds
	hour   = 60 * minute

	keepMinutes = uint64(len(postrider.Rates{}.Minutes))
	keepHours   = uint64(len(postrider.Rates{}.Hours))
	sweepAtOnce = 256 // rows that a commit deletes of those that are over, beside two for each that it adds
)

// span is the attempts of one minute or hour.
type span struct {
	at         uint64 // minutes or hours since 1970
	ok, failed uint64
}

func (c *span) count(failed bool) {
	if failed {
		c.failed++
	} else {
		c.ok++
	}
}

// add adds a row.
func (c *span) add(v []byte) {
	ok, n := binary.Uvarint(v)
	failed, _ := binary.Uvarint(v[max(n, 0):])
	c.ok += ok
	c.failed += failed
}

func spanKey(kind byte, at uint64, hook uint32) []byte {
	k := append(make([]byte, 0, 13), kind)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(k, at), hook)
}

func splitSpan(k []byte) (kind byte, at uint64, hook uint32) {
	return k[0], binary.BigEndian.Uint64(k[1:]), binary.BigEndian.Uint32(k[9:])
}

func dueKey(hook uint32, at uint64) []byte {
	k := append(make([]byte, 0, 13), tallyDue)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(k, hook), at)
}

// since returns how many whole minutes or hours a time is after 1970; one before counts as 1970.
func since(micros, unit int64) uint64 { return uint64(max(micros, 0) / unit) }

// oldest returns the first minute or hour that is kept.
func oldest(now, keep uint64) uint64 { return now + 1 - min(keep, now+1) }

// tallying is what one group changes of the tallies.
type tallying struct {
	due   map[dueMinute]int // by how much
	added map[byte]int      // rows of each kind of span
}

type dueMinute struct {
	hook uint32
	at   uint64
}

// attempted counts an attempt, of its webhook and of the whole store.
func (g *group) attempted(h *hook, failed bool) {
	for _, h := range [...]*hook{h, g.s.all} {
		st := g.stat(h)
		if failed {
			st.failed++
		} else {
			st.ok++
		}
		g.turn(&st.minute, tallyMinute, since(g.now, minute), keepMinutes, h.no)
		g.turn(&st.hour, tallyHour, since(g.now, hour), keepHours, h.no)
		st.minute.count(failed)
		st.hour.count(failed)
	}
}

// turn puts what stat has of another minute or hour than the present one into tally, unless it is over.
func (g *group) turn(c *span, kind byte, now, keep uint64, hook uint32) {
	if c.at == now {
		return
	}
	if c.ok+c.failed > 0 && c.at >= oldest(now, keep) {
		k := spanKey(kind, c.at, hook)
		c.add(g.get(bTally, k))
		g.put(bTally, k, binary.AppendUvarint(binary.AppendUvarint(nil, c.ok), c.failed))
		if g.tally.added == nil {
			g.tally.added = map[byte]int{}
		}
		g.tally.added[kind]++
	}
	*c = span{at: now}
}

// waits counts n more deliveries, or fewer, whose retry is due at a time. It writes nothing before the group's end:
// then many outcomes of a webhook have become few rows.
func (g *group) waits(h *hook, due int64, n int) {
	if g.tally.due == nil {
		g.tally.due = map[dueMinute]int{}
	}
	at := since(due, minute)
	g.tally.due[dueMinute{h.no, at}] += n
	g.tally.due[dueMinute{g.s.all.no, at}] += n
}

// endTally writes what waits has counted, and deletes rows that are over where others were added.
func (g *group) endTally() {
	for d, n := range g.tally.due {
		if n == 0 {
			continue
		}
		k := dueKey(d.hook, d.at)
		before, _ := binary.Uvarint(g.get(bTally, k))
		if after := int64(before) + int64(n); after > 0 {
			g.put(bTally, k, binary.AppendUvarint(nil, uint64(after)))
		} else {
			g.delete(bTally, k)
		}
	}
	for kind, n := range g.tally.added {
		first := oldest(since(g.now, minute), keepMinutes)
		if kind == tallyHour {
			first = oldest(since(g.now, hour), keepHours)
		}
		g.sweep(kind, first, sweepAtOnce+2*n)
	}
}

// sweep deletes at most n rows from before a minute or hour.
func (g *group) sweep(kind byte, first uint64, n int) {
	var over [][]byte
	c := g.cursor(bTally)
	end := spanKey(kind, first, 0)
	for k, _ := c.Seek([]byte{kind}); k != nil && string(k) < string(end) && len(over) < n; k, _ = c.Next() {
		over = append(over, slices.Clone(k))
	}
	for _, k := range over {
		g.delete(bTally, k)
	}
}

// dueRetries returns how many retries of the webhooks are due, of all there are or of those in the list.
func dueRetries(file *reader, list []pending, all bool, now int64) (n int64) {
	if all {
		return file.due(0, now)
	}
	for i := range list {
		if p := &list[i]; p.later {
			n += file.due(p.h.no, now)
		}
	}
	return n
}

// due returns how many retries of a webhook are due, by the minute. It reads a row for each minute that has some: those
// are few unless nothing of the webhook is handed out for long.
func (r *reader) due(hook uint32, now int64) (n int64) {
	c := r.cursor(bTally)
	end := dueKey(hook, since(now, minute)+1)
	for k, v := c.Seek(dueKey(hook, 0)); k != nil && string(k) < string(end); k, v = c.Next() {
		count, _ := binary.Uvarint(v)
		n += int64(count)
	}
	return n
}

// rates returns the sum of some webhooks' rates, which are in the order of their numbers.
func (r *reader) rates(hooks []uint32, now int64) (*postrider.Rates, error) {
	rates := new(postrider.Rates)
	minutes, hours := series{since(now, minute), rates.Minutes[:]}, series{since(now, hour), rates.Hours[:]}
	for _, no := range hooks {
		v := r.get(bStat, hookKey(no))
		if v == nil {
			continue
		}
		st, err := decodeStat(v)
		if err != nil {
			return nil, err
		}
		minutes.add(st.minute)
		hours.add(st.hour)
	}
	r.spans(tallyMinute, hooks, minutes)
	r.spans(tallyHour, hooks, hours)
	return rates, nil
}

// series is rates up to now, the last of the list.
type series struct {
	now  uint64
	list []postrider.Rate
}

func (s *series) first() uint64 { return oldest(s.now, uint64(len(s.list))) }

func (s *series) add(c span) {
	if c.at < s.first() || c.at > s.now {
		return
	}
	rate := &s.list[len(s.list)-1-int(s.now-c.at)]
	rate.OK += int64(c.ok)
	rate.Failed += int64(c.failed)
}

// spans adds the rows of some webhooks. Rows that are wanted it reads one after another; of others it passes over all
// that lie together with one search.
func (r *reader) spans(kind byte, hooks []uint32, sum series) {
	if len(hooks) == 0 {
		return
	}
	c := r.cursor(bTally)
	at, i := sum.first(), 0 // the row that is looked for
	k, v := c.Seek(spanKey(kind, at, hooks[i]))
	for k != nil && k[0] == kind {
		_, there, no := splitSpan(k)
		if there > sum.now {
			return
		}
		if there != at {
			at, i = there, 0
		}
		for i < len(hooks) && hooks[i] < no {
			i++
		}
		if i == len(hooks) {
			at, i = at+1, 0
			k, v = c.Seek(spanKey(kind, at, hooks[i]))
			continue
		}
		if hooks[i] > no {
			k, v = c.Seek(spanKey(kind, at, hooks[i]))
			continue
		}
		row := span{at: at}
		row.add(v)
		sum.add(row)
		k, v = c.Next()
	}
}
