package bench_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/postgres"
)

// ours is a dispatcher as a subject.
type ours struct {
	kept
	w    *work
	d    *postrider.Dispatcher
	stop context.CancelFunc
	ran  chan error

	started, ask time.Time // when it began to deliver, and when to ask the store again
}

// kept is a store, where it keeps what it has, and how to remove that once it is closed.
type kept struct {
	store  postrider.Store
	takes  func(context.Context) (int64, error)
	remove func() error
}

func openBolt(b *testing.B, w *work, _ *servers, inFlight int) (queue, error) {
	return openOurs(b, w, inFlight, nil, inFile(b, func(path string) (postrider.Store, error) {
		return bolt.Open(path, bolt.Options{})
	}))
}

// inFile keeps a store in a file of a folder of its own.
func inFile(b *testing.B, open func(path string) (postrider.Store, error)) func() (kept, error) {
	return func() (kept, error) {
		dir, err := os.MkdirTemp(b.TempDir(), "bolt")
		if err != nil {
			return kept{}, err
		}
		store, err := open(filepath.Join(dir, "webhooks.db"))
		return kept{
			store:  store,
			takes:  func(context.Context) (int64, error) { return onDisk(dir) },
			remove: func() error { return os.RemoveAll(dir) },
		}, err
	}
}

func openMemory(b *testing.B, w *work, _ *servers, inFlight int) (queue, error) {
	return openOurs(b, w, inFlight, nil, func() (kept, error) {
		return kept{
			store:  memstore.New(memstore.Options{}),
			takes:  func(context.Context) (int64, error) { return 0, nil },
			remove: func() error { return nil },
		}, nil
	})
}

func openPostgres(b *testing.B, w *work, s *servers, inFlight int) (queue, error) {
	return openOurs(b, w, inFlight, nil, func() (kept, error) {
		pool, remove, err := s.pool(b, 64)
		if err != nil {
			return kept{}, err
		}
		store, err := migrated(b.Context(), pool)
		if err != nil {
			return kept{}, errors.Join(err, remove())
		}
		return kept{
			store:  store,
			takes:  func(ctx context.Context) (int64, error) { return databaseSize(ctx, pool) },
			remove: remove,
		}, nil
	})
}

func migrated(ctx context.Context, pool *pgxpool.Pool) (*postgres.Store, error) {
	if err := postgres.Migrate(ctx, pool, postgres.Options{}); err != nil {
		return nil, err
	}
	return postgres.New(pool, postgres.Options{})
}

// openOurs returns a dispatcher on an empty store, with the default sender if that is nil.
func openOurs(b *testing.B, w *work, inFlight int, sender postrider.Sender, open func() (kept, error)) (queue, error) {
	k, err := open()
	if err != nil {
		return nil, err
	}
	// Concurrency is of all webhooks together, and 64 by default.
	d, err := postrider.New(k.store, postrider.Config{Concurrency: inFlight, MaxInFlight: inFlight, Sender: sender, Network: loopback})
	if err != nil {
		return nil, err
	}
	for _, h := range w.webhooks {
		if _, err := d.CreateWebhook(b.Context(), h); err != nil {
			return nil, err
		}
	}
	return &ours{kept: k, w: w, d: d}, nil
}

func (o *ours) enqueue(ctx context.Context, i, n int) error {
	if n == 1 {
		_, err := o.d.Emit(ctx, o.w.event(i))
		return err
	}
	list := make([]postrider.Event, n)
	for j := range list {
		list[j] = o.w.event(i + j)
	}
	_, err := o.d.EmitAll(ctx, list)
	return err
}

func (o *ours) start(ctx context.Context) error {
	ctx, o.stop = context.WithCancel(ctx)
	o.ran = make(chan error, 1)
	o.started = time.Now()
	o.ask = o.started.Add(20 * time.Millisecond)
	go func() { o.ran <- o.d.Run(ctx) }()
	return nil
}

// untilMost returns how long most of what is left of n deliveries should take, by what was delivered since the start: to
// ask the store costs too, so nobody asks again before.
func untilMost(n int, s postrider.Stats, start time.Time) time.Duration {
	left := float64(int64(n)-s.Delivered) / float64(s.Delivered+1)
	return time.Duration(min(left, 1) * 0.8 * float64(time.Since(start)))
}

func (o *ours) acknowledged(ctx context.Context, n int) (bool, error) {
	if time.Now().Before(o.ask) {
		return false, nil
	}
	s, err := o.d.Stats(ctx, postrider.StatsQuery{})
	o.ask = time.Now().Add(untilMost(n, s, o.started))
	return s.Delivered >= int64(n), err
}

func (o *ours) disk(ctx context.Context) (int64, error) { return o.takes(ctx) }

func (o *ours) close() error {
	if o.stop != nil {
		o.stop()
		if err := <-o.ran; err != nil {
			return err
		}
	}
	if err := o.store.Close(); err != nil {
		return err
	}
	return o.remove()
}
