package bolt

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
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
	largeFile   = 64 << 20 // files above are worth reading in order after a crash, and a line in the log
)

var errInUse = errors.New("the file is in use by another process")

// Open opens the store in the file at path and makes it if there is none, with mode 0600. The file is locked: if
// another process has it open, Open returns an error that names the file within a second.
//
// After a Close the next Open is short, whatever the size of the file. After a crash it reads the file once from front
// to back, and logs how far it has come if that takes long.
func Open(path string, o Options) (*Store, error) {
	if err := createFile(path); err != nil {
		return nil, fmt.Errorf("bolt: %s: %w", path, err)
	}
	db, err := openFile(path, cmp.Or(o.Logger, slog.Default()).With("file", path))
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
func openFile(path string, log *slog.Logger) (db *bbolt.DB, err error) {
	// bbolt panics on some damaged files.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	options := &bbolt.Options{
		Timeout:        lockTimeout,
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true,
		NoStatistics:   true,
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(path, flag, mode)
			if err != nil {
				return nil, err
			}
			if err := ready(f, log); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		},
	}
	if runtime.GOOS != "windows" { // there it would make the file that large
		options.InitialMmapSize = mmapSize
	}
	db, err = bbolt.Open(path, fileMode, options)
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, errInUse
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
	if err := publish(temp.Name(), path); !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncFolder(folder)
}

// publish gives a file that is on disk its name, unless that is taken.
func publish(temp, path string) error {
	// A link, unlike a rename, fails if the name is taken.
	if err := os.Link(temp, path); errors.Is(err, os.ErrExist) {
		return err
	} else if err != nil {
		if err := os.Rename(temp, path); err != nil { // a file system without links
			return err
		}
	}
	return syncFolder(filepath.Dir(path))
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

// ready prepares a file for bbolt, which would look at every page of one that was not closed.
func ready(f *os.File, log *slog.Logger) error {
	if flocks {
		if !lock(f) {
			return nil // bbolt waits for the lock, and says so if it does not get it
		}
		if ok, err := restoreFreelist(f, log, progressEvery); ok || err != nil {
			return err
		}
	}
	return warm(f)
}

// warm reads a large file in order if it was not closed: in the order in which bbolt looks at its pages a cold disk is
// eight times slower.
func warm(f *os.File) error {
	m, err := readMeta(f)
	if err != nil || m.freelist != noFreelist || m.pages*m.pageSize < largeFile {
		return nil
	}
	_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{io.NewSectionReader(f, 0, math.MaxInt64)}, make([]byte, readAtOnce))
	return err
}
