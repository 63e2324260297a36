package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	lockTimeout = 500 * time.Millisecond // for the file's lock
	fileMode    = 0o600
	allocSize   = 64 << 20 // the file grows in such steps: each costs a sync and a remap
	mmapSize    = 1 << 30  // mapped from the start, so that growing to it makes no reader wait
	coldFile    = 64 << 20 // files above are worth reading in order after a crash
)

// Open opens the store in the file at path and makes it if there is none, with mode 0600. The file is locked: if
// another process has it open, Open returns an error that names the file within a second.
func Open(path string, o Options) (*Store, error) {
	if err := createFile(path); err != nil {
		return nil, fmt.Errorf("bolt: %s: %w", path, err)
	}
	db, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("bolt: %s: %w", path, err)
	}
	s, err := open(db, o, true)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// openFile opens a bbolt file that exists.
func openFile(path string) (db *bbolt.DB, err error) {
	// bbolt panics on some damaged files.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	if err := warm(path); err != nil {
		return nil, err
	}
	options := &bbolt.Options{
		Timeout:        lockTimeout,
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true,
		NoStatistics:   true,
	}
	if runtime.GOOS != "windows" { // there it would make the file that large
		options.InitialMmapSize = mmapSize
	}
	db, err = bbolt.Open(path, fileMode, options)
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, errors.New("the file is in use by another process")
	}
	if err != nil {
		return nil, err
	}
	db.AllocSize = allocSize
	return db, nil
}

// closeFile closes the file, having written its list of free pages if it is healthy: the next open then need not scan
// the file for them.
func closeFile(db *bbolt.DB, healthy bool) error {
	if !healthy {
		return db.Close()
	}
	db.NoFreelistSync = false
	err := db.Update(func(*bbolt.Tx) error { return nil })
	return errors.Join(err, db.Close())
}

// createFile makes an empty store at path unless something is there. It appears whole or not at all, also after a
// power failure, and never replaces a file that another process has just made.
func createFile(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	folder := filepath.Dir(path)
	temp, err := os.CreateTemp(folder, filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if err := temp.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(temp.Name(), fileMode, &bbolt.Options{Timeout: lockTimeout})
	if err != nil {
		return err
	}
	if err := errors.Join(db.Update(create), db.Sync(), db.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, fails if the name is taken.
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		if err := os.Rename(temp.Name(), path); err != nil { // a file system without links
			return err
		}
	}
	return syncFolder(folder)
}

func syncFolder(folder string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// warm reads a large file in order if it was not closed: bbolt will look at every page to find the free ones, in an
// order that a cold disk is eight times slower at.
func warm(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() < coldFile || hasFreelist(f) {
		return err
	}
	_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return err
}

// Of bbolt's file format (internal/common/meta.go): a meta page at the start of each of the first two pages.
const (
	metaHeader   = 16 // page header
	metaMagic    = 0xED0CDAED
	metaSize     = 64
	metaPageSize = 8
	metaFreelist = 32
	metaTxid     = 48
	noFreelist   = ^uint64(0)
)

// hasFreelist reports whether the newer meta page of a bbolt file names a list of free pages. On doubt it says yes,
// which costs time only.
func hasFreelist(f io.ReaderAt) bool {
	page := make([]byte, metaHeader+metaSize)
	if _, err := f.ReadAt(page, 0); err != nil {
		return true
	}
	native := binary.NativeEndian
	first := bytes.Clone(page[metaHeader:])
	if native.Uint32(first) != metaMagic {
		return true
	}
	if _, err := f.ReadAt(page, int64(native.Uint32(first[metaPageSize:]))); err != nil {
		return true
	}
	newer := page[metaHeader:]
	if native.Uint32(newer) != metaMagic || native.Uint64(first[metaTxid:]) > native.Uint64(newer[metaTxid:]) {
		newer = first
	}
	return native.Uint64(newer[metaFreelist:]) != noFreelist
}
