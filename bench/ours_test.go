package bench_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/postgres"
)

// ours is a dispatcher as a subject.
type ours struct {
	w      *work
	d      *postrider.Dispatcher
	stop   context.CancelFunc
	ran    chan error
	remove func() error
}

func openBolt(b *testing.B, w *work, _ *servers) (queue, error) {
	dir, err := os.MkdirTemp(b.TempDir(), "bolt")
	if err != nil {
		return nil, err
	}
	store, err := bolt.Open(filepath.Join(dir, "webhooks.db"), bolt.Options{})
	if err != nil {
		return nil, err
	}
	return openOurs(b, w, store, func() error { return os.RemoveAll(dir) })
}

func openMemory(b *testing.B, w *work, _ *servers) (queue, error) {
	return openOurs(b, w, memstore.New(memstore.Options{}), func() error { return nil })
}

func openPostgres(b *testing.B, w *work, s *servers) (_ queue, err error) {
	dsn, drop, err := s.database(b)
	if err != nil {
		return nil, err
	}
	pc, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	pc.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(b.Context(), pc)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	remove := func() error {
		pool.Close()
		return drop()
	}
	store, err := migrated(b.Context(), pool)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return openOurs(b, w, store, remove)
}

func migrated(ctx context.Context, pool *pgxpool.Pool) (*postgres.Store, error) {
	if err := postgres.Migrate(ctx, pool, postgres.Options{}); err != nil {
		return nil, err
	}
	return postgres.New(pool, postgres.Options{})
}

// openOurs returns a dispatcher on an empty store, which remove removes once it is closed.
func openOurs(b *testing.B, w *work, store postrider.Store, remove func() error) (queue, error) {
	d, err := postrider.New(store, postrider.Config{MaxInFlight: inFlight, Network: loopback})
	if err != nil {
		return nil, err
	}
	for _, h := range w.webhooks {
		if _, err := d.CreateWebhook(b.Context(), h); err != nil {
			return nil, err
		}
	}
	return &ours{w: w, d: d, remove: func() error {
		if err := store.Close(); err != nil {
			return err
		}
		return remove()
	}}, nil
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
	go func() { o.ran <- o.d.Run(ctx) }()
	return nil
}

func (o *ours) acknowledged(ctx context.Context, n int) (bool, error) {
	s, err := o.d.Stats(ctx, postrider.StatsQuery{})
	return s.Delivered >= int64(n), err
}

func (o *ours) close() error {
	if o.stop != nil {
		o.stop()
		if err := <-o.ran; err != nil {
			return err
		}
	}
	return o.remove()
}
