package memstore

import (
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
	list := h.lanes[d.lane]
	d.parked = len(list) > 0
	if len(list) == cap(list) {
		list = open(list)
	}
	h.lanes[d.lane] = append(list, d)
	if d.parked {
		h.tally.parked++
	}
	return d.parked
}

// leaveLane takes a delivery that has ended out of its lane and returns the one whose turn it is now, nil if there is
// none or another has its turn still.
func (h *hook) leaveLane(d *delivery) *delivery {
	if d.lane == "" {
		return nil
	}
	if d.parked {
		h.tally.parked--
		d.parked = false
	}
	list := h.lanes[d.lane]
	if list[0] != d {
		return nil // it stays where it is: lanes may be long
	}
	for len(list) > 0 && list[0].Status.Final() {
		list = list[1:]
	}
	if len(list) == 0 {
		delete(h.lanes, d.lane)
		return nil
	}
	h.lanes[d.lane] = list
	next := list[0]
	next.parked = false
	h.tally.parked--
	return next
}

// open returns a copy of a lane without those that have ended, with room for as many again.
func open(lane []*delivery) []*delivery {
	n := 0
	for _, d := range lane {
		if !d.Status.Final() {
			n++
		}
	}
	left := make([]*delivery, 0, 2*n+1)
	for _, d := range lane {
		if !d.Status.Final() {
			left = append(left, d)
		}
	}
	return left
}
