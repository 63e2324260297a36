package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/postrider/postrider"
)

// compactBytes is about how much a transaction of Compact writes.
const compactBytes = 16 << 20

// Compact writes what the store's file at from holds into a new file at to, without the space that is free: a file
// never shrinks by itself, but uses again what Prune has freed. The new file appears whole or not at all, also after a
// power failure, with mode 0600; what is there already is not replaced. It needs as much room as the result.
//
// The file at from must not be in use, and stays as it is. To compact in place, close the store, Compact into a file
// beside it, rename that over it, and open the store again. Buckets of others in the file are copied too. When ctx
// ends, Compact returns its error and leaves nothing behind.
func Compact(ctx context.Context, from, to string) error {
	if err := compact(ctx, from, to); err != nil {
		return fmt.Errorf("bolt: compact %s into %s: %w", from, to, err)
	}
	return nil
}

func compact(ctx context.Context, from, to string) (err error) {
	defer func() {
		if p := recover(); p != nil { // bbolt panics on some damaged files
			err = fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return os.ErrExist // publish would find out, after all the work
	}
	// To read needs no list of free pages: the file is only locked, and not written to.
	source, err := bbolt.Open(from, fileMode, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout, OpenFile: openToRead})
	if errors.Is(err, berrors.ErrTimeout) {
		return errInUse
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	temp, err := os.CreateTemp(filepath.Dir(to), filepath.Base(to)+".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }()
	if err := temp.Close(); err != nil {
		return err
	}
	if err := source.View(func(tx *bbolt.Tx) error { return copyInto(ctx, tx, temp.Name()) }); err != nil {
		return err
	}
	return publish(temp.Name(), to)
}

// openToRead opens a file for bbolt, and reads it in order: key by key a cold disk is eight times slower.
func openToRead(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag&^os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, make([]byte, readAtOnce)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// copyInto copies everything into an empty file, which is on disk then.
func copyInto(ctx context.Context, tx *bbolt.Tx, path string) (err error) {
	top := tx.Bucket(rootName)
	if top == nil {
		return fmt.Errorf("%w: there is no bucket %q", postrider.ErrStore, rootName)
	}
	if _, err := fixedOf(top); err != nil {
		return err
	}
	// Nothing is synced before all is there.
	options := &bbolt.Options{
		PageSize: tx.DB().Info().PageSize, Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType,
		NoSync: true, NoGrowSync: true, NoFreelistSync: true, NoStatistics: true,
	}
	if runtime.GOOS != "windows" { // there it would make the file that large
		options.InitialMmapSize = int(tx.Size())
	}
	db, err := bbolt.Open(path, fileMode, options)
	if err != nil {
		return err
	}
	c := &copier{ctx: ctx, db: db}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.all(tx); err != nil {
		return err
	}
	size := int64(0)
	err = db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil })
	if err = errors.Join(err, c.close()); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	// What is beyond the size bbolt has only set aside.
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// copier copies buckets in the order of their keys.
type copier struct {
	ctx  context.Context
	db   *bbolt.DB
	tx   *bbolt.Tx
	path []level // of the bucket at hand
	size int     // bytes put in this transaction
}

// level is a bucket on the way to the one at hand.
type level struct {
	name []byte
	b    *bbolt.Bucket
}

func (c *copier) all(from *bbolt.Tx) error {
	if err := c.begin(); err != nil {
		return err
	}
	if err := from.ForEach(c.bucket); err != nil {
		return err
	}
	c.db.NoFreelistSync = false // the last commit writes the list of free pages
	return c.commit()
}

func (c *copier) begin() (err error) {
	c.size = 0
	if c.tx, err = c.db.Begin(true); err != nil {
		return err
	}
	for i := range c.path {
		c.reach(i)
	}
	return nil
}

func (c *copier) commit() error {
	tx := c.tx
	c.tx = nil
	return tx.Commit()
}

// close drops what was not committed. A second call does nothing.
func (c *copier) close() (err error) {
	if c.tx != nil {
		err = c.tx.Rollback()
		c.tx = nil
	}
	return errors.Join(err, c.db.Close())
}

// reach gets a bucket of the path.
func (c *copier) reach(i int) {
	l := &c.path[i]
	if i == 0 {
		l.b = c.tx.Bucket(l.name)
	} else {
		l.b = c.path[i-1].b.Bucket(l.name)
	}
	l.b.FillPercent = fillAs(l.name)
}

// fillAs returns the fill percent for a bucket of that name: what a store sets for its own, so that what is not only
// appended to has some room.
func fillAs(name []byte) float64 {
	for b, n := range nameOf {
		if bytes.Equal(n, name) {
			return fillOf[b]
		}
	}
	return 0.9
}

// bucket copies a bucket into the one at hand.
func (c *copier) bucket(name []byte, from *bbolt.Bucket) error {
	c.path = append(c.path, level{name: name})
	defer func() { c.path = c.path[:len(c.path)-1] }()
	at := len(c.path) - 1
	var err error
	if at == 0 {
		_, err = c.tx.CreateBucket(name)
	} else {
		_, err = c.path[at-1].b.CreateBucket(name)
	}
	if err != nil {
		return err
	}
	c.reach(at)
	if n := from.Sequence(); n > 0 {
		if err := c.path[at].b.SetSequence(n); err != nil {
			return err
		}
	}
	return from.ForEach(func(k, v []byte) error {
		if v == nil {
			return c.bucket(k, from.Bucket(k))
		}
		if c.size += len(k) + len(v); c.size > compactBytes {
			if err := c.renew(); err != nil {
				return err
			}
		}
		return c.path[at].b.Put(k, v)
	})
}

// renew commits and goes on in another transaction.
func (c *copier) renew() error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	return c.begin()
}

// Backup writes a copy of the file to w, as it is at one moment while the store works on, and returns how many bytes
// that were. The copy can be opened as it is, and made smaller with Compact. In the caller's database it is a copy of
// all of that.
//
// As long as Backup writes, pages that are freed cannot be used again, so that the file grows by what is written
// meanwhile, and Close waits: let w be a local file rather than a network. After an error what was written is of no
// use. When ctx ends, Backup returns its error once w has taken what it was given.
func (s *Store) Backup(ctx context.Context, w io.Writer) (n int64, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.life.RUnlock()
	err = s.db.View(func(tx *bbolt.Tx) error {
		n, err = tx.WriteTo(contextWriter{ctx, w})
		return err
	})
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return 0, postrider.ErrClosed
	}
	return n, err
}

// contextWriter writes until its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c contextWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}
