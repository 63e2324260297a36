package bolt

// merge goes along all ways at once, in order, and meets a delivery that is on several of them once.
func (w *walk) merge(ways []way, f func(position) (bool, error)) (more bool, err error) {
	heads := make([]head, 0, len(ways))
	for _, y := range ways {
		if p, ok := y.next(); ok {
			heads = append(heads, head{p, y})
		}
	}
	for i := len(heads)/2 - 1; i >= 0; i-- {
		w.sink(heads, i)
	}
	for len(heads) > 0 && w.err == nil {
		first := &heads[0]
		if p := first.position; w.ahead(p) {
			if w.left <= 0 {
				return true, nil
			}
			w.left--
			if other := first.typed && w.hasType && first.typ != w.typ; !other {
				on, err := f(p)
				if err != nil || !on {
					return true, err
				}
			}
			w.at, w.set, w.again = p, true, false
		}
		var ok bool
		if first.place, ok = first.way.next(); !ok {
			last := len(heads) - 1
			heads[0], heads = heads[last], heads[:last]
		}
		w.sink(heads, 0)
	}
	return false, w.err
}

// head is a way and where it is.
type head struct {
	place
	way way
}

// sink moves a head down to its place in the heap, the first of which comes first in the order of the walk.
func (w *walk) sink(heads []head, i int) {
	for {
		next := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(heads); child++ {
			if c := heads[child].position.compare(heads[next].position); c != 0 && c < 0 == w.plan.Ascending {
				next = child
			}
		}
		if next == i {
			return
		}
		heads[i], heads[next] = heads[next], heads[i]
		i = next
	}
}

// ahead reports whether a position is still to be visited.
func (w *walk) ahead(p position) bool {
	if !w.set {
		return true
	}
	c := p.compare(w.at)
	return c == 0 && w.again || c != 0 && c > 0 == w.plan.Ascending
}
