package postgres

import (
	"crypto/sha256"
	"fmt"

	"github.com/postrider/postrider"
)

// batch is a call of Enqueue as storeSQL takes it: columns, with the number of the item that each row is of.
type batch struct {
	items    []postrider.Item
	projects map[string]*project
	first    map[string]bool // events that an item stores, by their keys
	runs     map[string]bool // replays that an item makes

	events struct {
		uid               []uid
		id, project, kind []string
		body              [][]byte
		item              []int
	}
	deliveries struct {
		id, event, lane, replayOf   []uid
		hook                        []int64
		test, again                 []bool
		run, project, eventID, kind []string
		item                        []int
	}
	plain   bool     // no delivery has a lane, or is a replay
	nowhere struct { // events that go to no webhook
		id, project []string
		item        []int
	}
	twins  []int // items whose event an earlier item stores
	wanted []int // how many webhooks each item goes to

	// What came of it.
	fresh, ran, known map[string]bool
}

// origin is a stored event.
type origin struct {
	uid  uid
	kind string
}

func keyOf(project, id string) string { return project + " " + id }

func runKey(eventRun string, hook int64) string { return fmt.Sprint(eventRun, " ", hook) }

// newBatch returns the batch of the items; an error means that one of them cannot be stored.
func newBatch(items []postrider.Item, projects map[string]*project, origins map[string]origin) (*batch, error) {
	b := &batch{
		items: items, projects: projects, plain: true, first: map[string]bool{}, runs: map[string]bool{},
		fresh: map[string]bool{}, ran: map[string]bool{}, known: map[string]bool{},
	}
	for i := range items {
		it := &items[i]
		from := origin{kind: it.Event.Type}
		if it.ReplayOf != "" {
			from = origins[keyOf(it.Event.Project, it.Event.ID)]
			if !from.uid.Valid {
				return nil, fmt.Errorf("items[%d]: event %q: %w", i, it.Event.ID, postrider.ErrNotFound)
			}
		}
		targets, err := projects[it.Event.Project].targets(it, from.kind)
		if err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
		b.wanted = append(b.wanted, len(targets))
		if it.ReplayOf == "" {
			from.uid = b.event(i, len(targets) > 0)
		}
		if !from.uid.Valid {
			continue
		}
		for _, t := range targets {
			if err := b.delivery(i, from, t); err != nil {
				return nil, fmt.Errorf("items[%d]: %w", i, err)
			}
		}
	}
	return b, nil
}

// event adds the event of an item that is no replay. It returns its UUID, NULL if the item is to make no deliveries.
func (b *batch) event(i int, goes bool) uid {
	e := &b.items[i].Event
	k := keyOf(e.Project, e.ID)
	switch {
	case b.first[k]:
		b.twins = append(b.twins, i)
		return uid{}
	case !goes:
		n := &b.nowhere
		n.id, n.project, n.item = append(n.id, e.ID), append(n.project, e.Project), append(n.item, i)
		return uid{}
	}
	b.first[k] = true
	body, _ := e.AppendBinary(make([]byte, 0, len(e.Payload)+256)) // it never fails
	l, u := &b.events, newUID()
	l.uid, l.id, l.project, l.kind = append(l.uid, u), append(l.id, e.ID), append(l.project, e.Project), append(l.kind, e.Type)
	l.body, l.item = append(l.body, body), append(l.item, i)
	return u
}

// delivery adds the delivery of an item to a webhook.
func (b *batch) delivery(i int, from origin, t *target) error {
	it := &b.items[i]
	var of uid
	var run string
	if it.ReplayOf != "" {
		var ok bool
		if of, ok = parseUID(it.ReplayOf); !ok || !storable(it.Run) {
			return fmt.Errorf("delivery %q: %w", it.ReplayOf, postrider.ErrNotFound)
		}
		run = it.Run
	}
	if run != "" {
		k := runKey(textOf(from.uid)+run, t.no)
		if b.runs[k] {
			return nil
		}
		b.runs[k] = true
	}
	d := &b.deliveries
	d.id, d.event, d.hook, d.item = append(d.id, newUID()), append(d.event, from.uid), append(d.hook, t.no), append(d.item, i)
	lane := laneOf(it, &t.hook)
	b.plain = b.plain && !lane.Valid && it.ReplayOf == ""
	d.lane, d.test, d.replayOf = append(d.lane, lane), append(d.test, it.Test), append(d.replayOf, of)
	d.run, d.again = append(d.run, run), append(d.again, it.ReplayOf != "")
	d.project, d.eventID, d.kind = append(d.project, it.Event.Project), append(d.eventID, it.Event.ID), append(d.kind, from.kind)
	return nil
}

// laneOf returns the lane that a delivery takes, NULL if none.
func laneOf(it *postrider.Item, w *postrider.Webhook) uid {
	var text string
	switch {
	case it.Test || it.ReplayOf != "":
		return uid{}
	case w.Ordered:
		text = "webhook"
	case it.Event.OrderKey != "":
		text = "key " + it.Event.OrderKey
	default:
		return uid{}
	}
	sum := sha256.Sum256([]byte(text))
	return uid{Bytes: [16]byte(sum[:16]), Valid: true}
}

// receipts returns what became of the items, once they are stored.
func (b *batch) receipts() []postrider.Receipt {
	list := make([]postrider.Receipt, len(b.items))
	for i := range b.items {
		list[i].EventID = b.items[i].Event.ID
	}
	for n, i := range b.events.item {
		list[i].Duplicate = !b.fresh[textOf(b.events.uid[n])]
	}
	for _, i := range b.twins {
		list[i].Duplicate = true
	}
	for n, i := range b.nowhere.item {
		list[i].Duplicate = b.known[keyOf(b.nowhere.project[n], b.nowhere.id[n])]
	}
	d := &b.deliveries
	for n, i := range d.item {
		event := textOf(d.event[n])
		if d.again[n] && (d.run[n] == "" || b.ran[runKey(event+d.run[n], d.hook[n])]) || !d.again[n] && b.fresh[event] {
			list[i].Deliveries = append(list[i].Deliveries, textOf(d.id[n]))
		}
	}
	for i := range b.items {
		if b.items[i].ReplayOf != "" {
			list[i].Duplicate = b.wanted[i] > 0 && len(list[i].Deliveries) == 0
		}
	}
	return list
}
