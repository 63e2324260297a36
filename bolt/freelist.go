package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"log/slog"
	"math/bits"
	"time"
)

// A file that was not closed has no list of its free pages. bbolt then finds them by going through every tree: it keeps
// 51 bytes of memory a page, and reads the pages in the order of keys, at which a cold disk is eight times slower than at
// their order in the file. restoreFreelist finds them with two bits a page and in one reading from front to back, and
// writes the list as Close would have, so that bbolt has only to load it.
//
//	R1 Nothing is taken on trust. Branch pages say where the leaves are, and each leaf is then read and must be one. On
//	   any doubt the file stays as it is: bbolt scans it, and says what is wrong with it.
//	R2 The list goes to free pages or to the end of the file, and is synced before the meta page that names it is written
//	   over the older of the two. The file can be opened whenever this breaks off.
//	R3 The caller holds the lock of the file.

// Of bbolt's file format (its internal/common): numbers are in the order of the machine.
//
//	page     id8 flags2 count2 overflow4, then its elements; overflow pages more belong to it
//	branch   pos4 ksize4 pgid8
//	leaf     flags4 pos4 ksize4 vsize4; key and value are pos behind the element
//	bucket   pgid8 sequence8: the value of a leaf's element whose flags say so; pgid 0 is one that follows here
//	meta     magic4 version4 pagesize4 flags4 root16 freelist8 pages8 txid8 checksum8, in each of the first two pages
//	freelist pgid8 ...; from 0xffff on count is that, and the number of them comes first
const (
	pageHead    = 16
	elementSize = 16 // of branch and leaf
	bucketSize  = 16

	isBranch   = 0x01
	isLeaf     = 0x02
	isMeta     = 0x04
	isFreelist = 0x10
	isBucket   = 0x01 // of an element
	manyFree   = 0xffff

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64
	noFreelist  = ^uint64(0)

	readAtOnce    = 1 << 20
	progressEvery = 5 * time.Second
)

var (
	native   = binary.NativeEndian
	errDoubt = errors.New("not as expected")
)

// medium is what restoreFreelist needs of a file.
type medium interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// restoreFreelist gives a bbolt file that was not closed a list of its free pages. It reports whether the file has one
// then; where not, nothing was changed. An error is one of writing or syncing. If the file is large it logs how far it
// has come, every so often.
func restoreFreelist(f medium, log *slog.Logger, every time.Duration) (ok bool, err error) {
	m, err := readMeta(f)
	if err != nil {
		return false, nil
	}
	if m.freelist != noFreelist {
		return true, nil
	}
	v := &survey{f: f, meta: m, log: log, every: every, began: time.Now()}
	if err := v.find(); err != nil {
		return false, nil
	}
	return v.write()
}

// meta is the newer of the two meta pages.
type meta struct {
	pageSize uint64
	root     uint64 // page of the root bucket
	freelist uint64 // page of the list, or noFreelist
	pages    uint64 // in use or free; the file may be longer
	txid     uint64
	raw      []byte
}

func readMeta(f io.ReaderAt) (newer meta, err error) {
	first, err := decodeMeta(f, 0)
	if err != nil {
		return first, err
	}
	second, err := decodeMeta(f, int64(first.pageSize))
	if err != nil || second.pageSize != first.pageSize || second.txid < first.txid {
		return first, nil
	}
	return second, nil
}

func decodeMeta(f io.ReaderAt, at int64) (m meta, err error) {
	b := make([]byte, metaSize)
	if _, err := f.ReadAt(b, at+pageHead); err != nil {
		return m, err
	}
	m = meta{
		pageSize: uint64(native.Uint32(b[8:])), root: native.Uint64(b[16:]), freelist: native.Uint64(b[32:]),
		pages: native.Uint64(b[40:]), txid: native.Uint64(b[48:]), raw: b,
	}
	if native.Uint32(b) != metaMagic || native.Uint32(b[4:]) != metaVersion || native.Uint64(b[56:]) != m.sum() ||
		m.pageSize < 512 || m.pageSize > readAtOnce || bits.OnesCount64(m.pageSize) != 1 {
		return m, errDoubt
	}
	return m, nil
}

func (m *meta) sum() uint64 {
	h := fnv.New64a()
	_, _ = h.Write(m.raw[:56]) // never fails
	return h.Sum64()
}

// write adds the list of what is free to the file.
func (v *survey) write() (ok bool, err error) {
	free := v.meta.pages
	for _, word := range v.used {
		free -= uint64(bits.OnesCount64(word))
	}
	need := (pageHead + 8*(free+1) + v.meta.pageSize - 1) / v.meta.pageSize
	pages := v.meta.pages
	at, found := v.gap(need)
	if found {
		free -= need
	} else {
		at, pages = v.meta.pages, v.meta.pages+need
	}
	list := make([]byte, pageHead, need*v.meta.pageSize)
	native.PutUint64(list, at)
	native.PutUint16(list[8:], isFreelist)
	native.PutUint16(list[10:], uint16(min(free, manyFree)))
	native.PutUint32(list[12:], uint32(need-1))
	if free >= manyFree {
		list = native.AppendUint64(list, free)
	}
	for id := range v.meta.pages {
		if !v.used.has(id) && (id < at || id >= at+need) {
			list = native.AppendUint64(list, id)
		}
	}
	if _, err := v.f.WriteAt(list[:cap(list)], int64(at*v.meta.pageSize)); err != nil {
		return false, nil // there may be no room: bbolt needs none
	}
	if err := v.f.Sync(); err != nil {
		return false, err
	}
	m := v.meta
	page := make([]byte, m.pageSize)
	m.raw = page[pageHead:][:metaSize]
	copy(m.raw, v.meta.raw)
	native.PutUint64(m.raw[32:], at)
	native.PutUint64(m.raw[40:], pages)
	native.PutUint64(m.raw[48:], m.txid+1)
	native.PutUint64(m.raw[56:], m.sum())
	which := (m.txid + 1) % 2
	native.PutUint64(page, which)
	native.PutUint16(page[8:], isMeta)
	if _, err := v.f.WriteAt(page, int64(which*m.pageSize)); err != nil {
		return false, err
	}
	if err := v.f.Sync(); err != nil {
		return false, err
	}
	if v.large() {
		v.log.InfoContext(context.Background(), "bolt: found the free pages", "pages", free, "took", time.Since(v.began).Round(time.Millisecond))
	}
	return true, nil
}

// gap returns the first of n free pages in a row.
func (v *survey) gap(n uint64) (first uint64, found bool) {
	run := uint64(0)
	for id := range v.meta.pages {
		if v.used.has(id) {
			run = 0
			continue
		}
		if run++; run == n {
			return id + 1 - n, true
		}
	}
	return 0, false
}
