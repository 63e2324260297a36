package bench_test

import (
	"context"
	"testing"
	"time"

	"github.com/hibiken/asynq"
)

// asynqQueue is asynq on an empty Redis.
type asynqQueue struct {
	*delivering
	w         *work
	inFlight  int
	dir       string
	redis     asynq.RedisClientOpt
	client    *asynq.Client
	inspector *asynq.Inspector
	server    *asynq.Server
}

func openAsynq(b *testing.B, w *work, s *servers, inFlight int) (queue, error) {
	addr, err := s.emptyRedis(b)
	if err != nil {
		return nil, err
	}
	redis := asynq.RedisClientOpt{Addr: addr, PoolSize: 2 * inFlight}
	return &asynqQueue{
		delivering: newDelivering(b, w), w: w, inFlight: inFlight, dir: s.redis.dir, redis: redis,
		client: asynq.NewClient(redis), inspector: asynq.NewInspector(redis),
	}, nil
}

// enqueue takes one event: asynq has no call for more.
func (q *asynqQueue) enqueue(ctx context.Context, i, n int) error {
	if n > 1 {
		return missingBatch
	}
	_, err := q.client.EnqueueContext(ctx, asynq.NewTask("deliver", q.w.packed(i)))
	return err
}

func (q *asynqQueue) start(context.Context) error {
	q.server = asynq.NewServer(q.redis, asynq.Config{
		Concurrency: q.inFlight, TaskCheckInterval: 5 * time.Millisecond, LogLevel: asynq.ErrorLevel,
	})
	return q.server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		return q.deliverPacked(ctx, t.Payload())
	}))
}

// acknowledged asks the server only when all were answered. A task that is done is deleted.
func (q *asynqQueue) acknowledged(_ context.Context, n int) (bool, error) {
	if all, err := q.answered(n); !all || err != nil {
		return false, err
	}
	info, err := q.inspector.GetQueueInfo("default")
	if err != nil {
		return false, err
	}
	return info.Size == 0, nil
}

func (q *asynqQueue) disk(context.Context) (int64, error) { return onDisk(q.dir) }

func (q *asynqQueue) close() error {
	if q.server != nil {
		q.server.Shutdown()
	}
	q.poster.close()
	if err := q.inspector.Close(); err != nil {
		return err
	}
	return q.client.Close()
}
