package bolt_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/storetest"
)

// file is a store that knows its path, so that it can be opened again, and its database, for the caller's transactions.
type file struct {
	*bolt.Store
	path string
}

func TestStore(t *testing.T) {
	open := func(t *testing.T, path string, now func() time.Time) postrider.Store {
		s, err := bolt.Open(path, bolt.Options{Now: now})
		require.NoError(t, err)
		return &file{s, path}
	}
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T, now func() time.Time) postrider.Store {
			return open(t, filepath.Join(t.TempDir(), "store.db"), now)
		},
		Reopen: func(t *testing.T, s postrider.Store, now func() time.Time) postrider.Store {
			require.NoError(t, s.Close())
			path := s.(*file).path
			checkFile(t, path)
			return open(t, path, now)
		},
	})
}

// guest is a store in the caller's own database.
type guest struct {
	*bolt.Store
	db *bbolt.DB
}

// Close closes the database too: the suite knows only the store.
func (g *guest) Close() error { return errors.Join(g.Store.Close(), g.db.Close()) }

func TestStoreInsideTheCallersDatabase(t *testing.T) {
	open := func(t *testing.T, path string, now func() time.Time) postrider.Store {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
		require.NoError(t, err)
		s, err := bolt.New(db, bolt.Options{Now: now})
		require.NoError(t, err)
		return &guest{s, db}
	}
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T, now func() time.Time) postrider.Store {
			return open(t, filepath.Join(t.TempDir(), "app.db"), now)
		},
		Reopen: func(t *testing.T, s postrider.Store, now func() time.Time) postrider.Store {
			path := s.(*guest).db.Path()
			require.NoError(t, s.Close())
			return open(t, path, now)
		},
		Begin: func(t *testing.T, s postrider.Store) storetest.Tx {
			g := s.(*guest)
			tx, err := g.db.Begin(true)
			require.NoError(t, err)
			return callersTx{g.Tx(tx), tx}
		},
	})
}

type callersTx struct {
	postrider.Enqueuer
	tx *bbolt.Tx
}

func (c callersTx) Commit() error   { return c.tx.Commit() }
func (c callersTx) Rollback() error { return c.tx.Rollback() }

// checkFile runs bbolt's own check.
func checkFile(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}))
}
