package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverQueue is River on a PostgreSQL database of its own.
type riverQueue struct {
	*delivering
	w       *work
	pool    *pgxpool.Pool
	client  *river.Client[pgx.Tx]
	started bool
	remove  func() error
}

// riverJob is an event as River gets it.
type riverJob struct {
	Hook    int             `json:"hook"`
	ID      string          `json:"id"`
	Payload json.RawMessage `json:"payload"`
}

func (riverJob) Kind() string { return "deliver" }

type riverWorker struct {
	river.WorkerDefaults[riverJob]
	*delivering
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverJob]) error {
	return w.deliver(ctx, job.Args.Hook, job.Args.ID, job.Args.Payload)
}

func openRiver(b *testing.B, w *work, s *servers, most int) (queue, error) {
	if most != inFlight {
		return nil, missing("100 workers, as shipped")
	}
	return openRiverWith(b, w, s, 0, river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}},
	})
}

func openRiverTuned(b *testing.B, w *work, s *servers, inFlight int) (queue, error) {
	return openRiverWith(b, w, s, 64, river.Config{
		FetchCooldown: 5 * time.Millisecond,
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: inFlight}},
	})
}

// openRiverWith uses so many connections, or the pool's default if 0.
func openRiverWith(b *testing.B, w *work, s *servers, conns int32, c river.Config) (_ queue, err error) {
	q := &riverQueue{delivering: newDelivering(b, w), w: w}
	if q.pool, q.remove, err = s.pool(b, conns); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, q.remove())
		}
	}()
	driver := riverpgxv5.New(q.pool)
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(b.Context(), rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	c.Logger, c.Workers = quiet, river.NewWorkers()
	river.AddWorker(c.Workers, &riverWorker{delivering: q.delivering})
	if q.client, err = river.NewClient(driver, &c); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *riverQueue) job(i int) riverJob {
	return riverJob{i % hooks, uuid.Must(uuid.NewV7()).String(), q.w.payloads[i%len(q.w.payloads)]}
}

func (q *riverQueue) enqueue(ctx context.Context, i, n int) error {
	if n == 1 {
		_, err := q.client.Insert(ctx, q.job(i), nil)
		return err
	}
	list := make([]river.InsertManyParams, n)
	for j := range list {
		list[j].Args = q.job(i + j)
	}
	_, err := q.client.InsertManyFast(ctx, list)
	return err
}

func (q *riverQueue) start(ctx context.Context) error {
	q.started = true
	return q.client.Start(ctx)
}

// acknowledged asks the server only when all were answered: it counts every row.
func (q *riverQueue) acknowledged(ctx context.Context, n int) (bool, error) {
	if all, err := q.answered(n); !all || err != nil {
		return false, err
	}
	var completed int
	err := q.pool.QueryRow(ctx, `SELECT count(*) FROM river_job WHERE state = 'completed'`).Scan(&completed)
	if err == nil && completed > n {
		err = fmt.Errorf("%d jobs completed of %d", completed, n)
	}
	return completed == n, err
}

func (q *riverQueue) disk(ctx context.Context) (int64, error) { return databaseSize(ctx, q.pool) }

func (q *riverQueue) close() error {
	var err error
	if q.started {
		err = q.client.Stop(context.Background())
	}
	q.poster.close()
	return errors.Join(err, q.remove())
}
