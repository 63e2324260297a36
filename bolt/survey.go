package bolt

import (
	"context"
	"log/slog"
	"math"
	"time"
)

// survey finds out which pages are in use.
type survey struct {
	f      medium
	meta   meta
	used   bitmap
	leaves bitmap // first pages of leaves that are still to be read
	log    *slog.Logger
	every  time.Duration // progress is logged
	began  time.Time
	told   time.Time // when it was last
}

type bitmap []uint64

func (m bitmap) has(i uint64) bool { return m[i/64]&(1<<(i%64)) != 0 }
func (m bitmap) set(i uint64)      { m[i/64] |= 1 << (i % 64) }

func (v *survey) find() error {
	if v.meta.pages < 4 || v.meta.pages > math.MaxInt64/v.meta.pageSize {
		return errDoubt
	}
	if _, err := v.f.ReadAt(make([]byte, 1), int64(v.meta.pages*v.meta.pageSize-1)); err != nil {
		return err // the file is shorter than it says
	}
	n := (v.meta.pages + 63) / 64
	v.used, v.leaves = make(bitmap, n), make(bitmap, n)
	v.used.set(0)
	v.used.set(1)
	if v.large() {
		v.told = time.Now()
		v.log.InfoContext(context.Background(), "bolt: the file was not closed; looking for its free pages", "bytes", v.meta.pages*v.meta.pageSize)
	}
	if err := v.bucket(v.meta.root, 0, nil); err != nil {
		return err
	}
	return v.readLeaves()
}

func (v *survey) large() bool { return v.meta.pages*v.meta.pageSize >= largeFile }

// take notes pages as in use.
func (v *survey) take(first, n uint64) error {
	if first >= v.meta.pages || n > v.meta.pages-first {
		return errDoubt
	}
	for id := first; id < first+n; id++ {
		if v.used.has(id) {
			return errDoubt
		}
		v.used.set(id)
	}
	return nil
}

// head reads the start of a page, and says how many pages belong to it.
func (v *survey) head(id uint64) (flags uint16, count int, n uint64, err error) {
	b := make([]byte, pageHead)
	if id >= v.meta.pages {
		return 0, 0, 0, errDoubt
	}
	if _, err := v.f.ReadAt(b, int64(id*v.meta.pageSize)); err != nil {
		return 0, 0, 0, err
	}
	if native.Uint64(b) != id {
		return 0, 0, 0, errDoubt
	}
	return native.Uint16(b[8:]), int(native.Uint16(b[10:])), 1 + uint64(native.Uint32(b[12:])), nil
}

// page reads a page with all that belongs to it, and notes it as in use.
func (v *survey) page(id uint64) (p []byte, flags uint16, count int, err error) {
	flags, count, n, err := v.head(id)
	if err != nil {
		return nil, 0, 0, err
	}
	if err := v.take(id, n); err != nil {
		return nil, 0, 0, err
	}
	p = make([]byte, n*v.meta.pageSize)
	if _, err := v.f.ReadAt(p, int64(id*v.meta.pageSize)); err != nil {
		return nil, 0, 0, err
	}
	if len(p) < pageHead+count*elementSize {
		return nil, 0, 0, errDoubt
	}
	return p, flags, count, nil
}

// bucket goes through the tree of a bucket at some depth, the root being at 0. Our own hold no buckets: their leaves
// need not be looked into, and are left to be read in the order of the file.
func (v *survey) bucket(root uint64, depth int, name []byte) error {
	if depth == 2 && ours(name) {
		level, err := v.level(root)
		if err != nil {
			return err
		}
		return v.flat(root, level)
	}
	return v.tree(root, depth, name)
}

// ours reports whether a bucket in a bucket is named as one of ours, so that it holds no other. If it does, because it
// is another's, there is a doubt when its leaves are read.
func ours(name []byte) bool {
	for _, n := range nameOf {
		if string(n) == string(name) {
			return true
		}
	}
	return false
}

// level returns how far above the leaves a page is: all leaves of a tree are at one level.
func (v *survey) level(id uint64) (int, error) {
	for level := 0; level < 64; level++ {
		flags, _, _, err := v.head(id)
		if err != nil {
			return 0, err
		}
		if flags == isLeaf {
			return level, nil
		}
		if flags != isBranch {
			return 0, errDoubt
		}
		b := make([]byte, elementSize)
		if _, err := v.f.ReadAt(b, int64(id*v.meta.pageSize+pageHead)); err != nil {
			return 0, err
		}
		id = native.Uint64(b[8:])
	}
	return 0, errDoubt
}

// flat goes through the branches of a tree that is so high.
func (v *survey) flat(id uint64, level int) error {
	if level == 0 {
		if id < 2 || id >= v.meta.pages || v.leaves.has(id) {
			return errDoubt
		}
		v.leaves.set(id)
		return nil
	}
	p, flags, count, err := v.page(id)
	if err != nil {
		return err
	}
	if flags != isBranch {
		return errDoubt
	}
	for i := range count {
		if err := v.flat(native.Uint64(p[pageHead+i*elementSize+8:]), level-1); err != nil {
			return err
		}
	}
	return nil
}

// tree goes through a tree that may hold buckets.
func (v *survey) tree(id uint64, depth int, name []byte) error {
	p, flags, count, err := v.page(id)
	if err != nil {
		return err
	}
	for i := range count {
		at := pageHead + i*elementSize
		switch {
		case flags == isBranch:
			err = v.tree(native.Uint64(p[at+8:]), depth, name)
		case flags != isLeaf:
			err = errDoubt
		case native.Uint32(p[at:])&isBucket != 0:
			err = v.element(p, at, depth)
		}
		if err != nil {
			return err
		}
	}
	if flags != isBranch && flags != isLeaf {
		return errDoubt
	}
	return nil
}

// element goes through the bucket that an element of a leaf is.
func (v *survey) element(p []byte, at, depth int) error {
	key := uint64(at) + uint64(native.Uint32(p[at+4:]))
	value := key + uint64(native.Uint32(p[at+8:]))
	if value+bucketSize > uint64(len(p)) {
		return errDoubt
	}
	root := native.Uint64(p[value:])
	if root == 0 {
		return nil // inline: it has no page, and bbolt inlines none that holds a bucket
	}
	return v.bucket(root, depth+1, p[key:value])
}

// readLeaves reads the leaves from front to back.
func (v *survey) readLeaves() error {
	perRead := readAtOnce / v.meta.pageSize
	buffer := make([]byte, readAtOnce)
	for first := uint64(0); first < v.meta.pages; first += perRead {
		v.progress(first)
		end := min(first+perRead, v.meta.pages)
		if !v.leavesIn(first, end) {
			continue
		}
		b := buffer[:(end-first)*v.meta.pageSize]
		if _, err := v.f.ReadAt(b, int64(first*v.meta.pageSize)); err != nil {
			return err
		}
		for id := first; id < end; id++ {
			if v.leaves.has(id) {
				if err := v.leaf(id, b[(id-first)*v.meta.pageSize:][:v.meta.pageSize]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// leavesIn reports whether a leaf begins within a range.
func (v *survey) leavesIn(first, end uint64) bool {
	for id := first; id < end; id++ {
		if v.leaves.has(id) {
			return true
		}
	}
	return false
}

// leaf checks that a page is a leaf without buckets, and notes what belongs to it.
func (v *survey) leaf(id uint64, p []byte) error {
	if native.Uint64(p) != id || native.Uint16(p[8:]) != isLeaf {
		return errDoubt
	}
	n := 1 + uint64(native.Uint32(p[12:]))
	if err := v.take(id, n); err != nil {
		return err
	}
	for next := id + 1; next < id+n; next++ {
		if v.leaves.has(next) {
			return errDoubt
		}
	}
	// A page has a second one only if an element does not fit, and has few elements then.
	for i := range min(int(native.Uint16(p[10:])), (len(p)-pageHead)/elementSize) {
		if native.Uint32(p[pageHead+i*elementSize:]) != 0 {
			return errDoubt
		}
	}
	return nil
}

func (v *survey) progress(pages uint64) {
	if !v.large() || time.Since(v.told) < v.every {
		return
	}
	v.told = time.Now()
	v.log.InfoContext(context.Background(), "bolt: looking for free pages", "percent", 100*pages/v.meta.pages)
}
