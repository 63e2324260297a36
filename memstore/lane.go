package memstore

import (
	"slices"

	"github.com/postrider/postrider"
)

// laneOf returns the lane that a delivery takes, "" if none.
func laneOf(it *postrider.Item, h *hook) string {
	switch {
	case it.Test || it.ReplayOf != "":
		return ""
	case h.Ordered:
		return "webhook"
	case it.Event.OrderKey != "":
		return "key " + it.Event.OrderKey
	}
	return ""
}

// enterLane puts a new delivery at the end of its lane, if it has one, and reports whether it is parked there.
func (h *hook) enterLane(d *delivery) bool {
	if d.lane == "" {
		return false
	}
	if h.lanes == nil {
		h.lanes = map[string][]*delivery{}
	}
	d.parked = len(h.lanes[d.lane]) > 0
	h.lanes[d.lane] = append(h.lanes[d.lane], d)
	if d.parked {
		h.tally.parked++
	}
	return d.parked
}

// leaveLane takes a delivery that has ended out of its lane and returns the one whose turn it is now, nil if there is
// none or it had its turn before.
func (h *hook) leaveLane(d *delivery) *delivery {
	if d.lane == "" {
		return nil
	}
	list := h.lanes[d.lane]
	if d.parked {
		h.tally.parked--
		d.parked = false
	}
	if list[0] == d {
		list = list[1:] // not copied: lanes may be long
	} else {
		i, _ := slices.BinarySearchFunc(list, d.seq, func(other *delivery, seq uint64) int { return int(int64(other.seq) - int64(seq)) })
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(h.lanes, d.lane)
		return nil
	}
	h.lanes[d.lane] = list
	next := list[0]
	if !next.parked {
		return nil
	}
	next.parked = false
	h.tally.parked--
	return next
}
