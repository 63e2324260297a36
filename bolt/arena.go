package bolt

// arena is room for values that bbolt keeps until the end of the transaction: one of the store's own gives it back for
// the next.
type arena struct{ chunk []byte }

const (
	arenaFirst = 1 << 10
	arenaKept  = 1 << 20 // larger ones are not used again
)

// room returns an empty slice for n bytes at most.
func (a *arena) room(n int) []byte {
	if n > cap(a.chunk)-len(a.chunk) {
		a.chunk = make([]byte, 0, max(n, arenaFirst, min(2*cap(a.chunk), arenaKept)))
	}
	from := len(a.chunk)
	a.chunk = a.chunk[:from+n]
	return a.chunk[from : from : from+n]
}

// reset returns the arena as it is to be used again. Nothing may refer to what is in it any more.
func (a arena) reset() arena {
	if cap(a.chunk) > arenaKept {
		return arena{}
	}
	return arena{a.chunk[:0]}
}
