package bench_test

import (
	"errors"
	"io"
	"log"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

const slowSync = 5 * time.Millisecond

// slowLogger makes a disk slow: bbolt tells its logger when a commit begins, which holds the writer from then on, and
// which writes and syncs after that. A commit syncs twice. Only the sync of a file that grows goes without the delay.
type slowLogger struct {
	*bbolt.DefaultLogger
	slow atomic.Bool // not while the webhooks are made
}

const commitBegins = "Committing transaction %d"

func (l *slowLogger) Debugf(format string, _ ...any) {
	if format == commitBegins && l.slow.Load() {
		time.Sleep(2 * slowSync)
	}
}

// slowStore is a store in a bbolt file of its own.
type slowStore struct {
	postrider.Store
	db *bbolt.DB
}

func (s slowStore) Close() error { return errors.Join(s.Store.Close(), s.db.Close()) }

func openBoltSlow(b *testing.B, w *work, _ *servers, inFlight int) (queue, error) {
	logger := &slowLogger{DefaultLogger: &bbolt.DefaultLogger{Logger: log.New(io.Discard, "", 0)}}
	q, err := openOurs(b, w, inFlight, nil, inFile(b, func(path string) (postrider.Store, error) {
		return openLogged(path, logger)
	}))
	logger.slow.Store(true)
	return q, err
}

// openLogged opens a file as bolt.Open does, with a logger.
func openLogged(path string, logger bbolt.Logger) (postrider.Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true, InitialMmapSize: 1 << 30, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	db.AllocSize = 64 << 20
	store, err := bolt.New(db, bolt.Options{})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return slowStore{store, db}, nil
}
