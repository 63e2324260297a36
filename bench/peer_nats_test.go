package bench_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsQueue is a NATS server in this process, with a JetStream work queue in files.
type natsQueue struct {
	*delivering
	w        *work
	inFlight int
	server   *server.Server
	emits    jetstream.JetStream
	consumer jetstream.Consumer
	conns    []*nats.Conn
	messages jetstream.MessagesContext
	stop     context.CancelFunc
	workers  sync.WaitGroup
	acked    atomic.Int64
	unacked  atomic.Int64
	dir      string
}

const natsSubject = "events"

func openNATSAlways(b *testing.B, w *work, _ *servers, inFlight int) (queue, error) {
	return openNATSWith(b, w, inFlight, true)
}

func openNATS(b *testing.B, w *work, _ *servers, inFlight int) (queue, error) {
	return openNATSWith(b, w, inFlight, false)
}

func openNATSWith(b *testing.B, w *work, inFlight int, always bool) (_ queue, err error) {
	q := &natsQueue{delivering: newDelivering(b, w), w: w, inFlight: inFlight}
	if q.dir, err = os.MkdirTemp(b.TempDir(), "nats"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, q.close())
		}
	}()
	q.server, err = server.NewServer(&server.Options{
		ServerName: "bench", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: q.dir, SyncAlways: always,
	})
	if err != nil {
		return nil, err
	}
	q.server.Start()
	if !q.server.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the server is not ready after 10 s")
	}
	emits, err := q.connect()
	if err != nil {
		return nil, err
	}
	takes, err := q.connect()
	if err != nil {
		return nil, err
	}
	q.emits = emits
	stream, err := takes.CreateStream(b.Context(), jetstream.StreamConfig{
		Name: "EVENTS", Subjects: []string{natsSubject}, Storage: jetstream.FileStorage,
		Retention: jetstream.WorkQueuePolicy,
	})
	if err != nil {
		return nil, err
	}
	q.consumer, err = stream.CreateConsumer(b.Context(), jetstream.ConsumerConfig{
		Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		return nil, err
	}
	return q, nil
}

func (q *natsQueue) connect() (jetstream.JetStream, error) {
	conn, err := nats.Connect("", nats.InProcessServer(q.server))
	if err != nil {
		return nil, err
	}
	q.conns = append(q.conns, conn)
	return jetstream.New(conn)
}

// enqueue publishes a batch without waiting in between, and then waits for every acknowledgement.
func (q *natsQueue) enqueue(ctx context.Context, i, n int) error {
	if n == 1 {
		_, err := q.emits.Publish(ctx, natsSubject, q.w.packed(i))
		return err
	}
	futures := make([]jetstream.PubAckFuture, n)
	for j := range futures {
		var err error
		if futures[j], err = q.emits.PublishAsync(natsSubject, q.w.packed(i+j)); err != nil {
			return err
		}
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (q *natsQueue) start(ctx context.Context) error {
	ctx, q.stop = context.WithCancel(ctx)
	var err error
	if q.messages, err = q.consumer.Messages(); err != nil {
		return err
	}
	for range q.inFlight {
		q.workers.Go(func() {
			for {
				m, err := q.messages.Next()
				if err != nil {
					return // stopped
				}
				if q.deliverPacked(ctx, m.Data()) != nil {
					continue
				}
				if m.DoubleAck(ctx) != nil {
					q.unacked.Add(1)
					continue
				}
				q.acked.Add(1)
			}
		})
	}
	return nil
}

func (q *natsQueue) acknowledged(_ context.Context, n int) (bool, error) {
	if _, err := q.answered(n); err != nil {
		return false, err
	}
	if unacked := q.unacked.Load(); unacked > 0 {
		return false, fmt.Errorf("%d acknowledgements failed", unacked)
	}
	return q.acked.Load() >= int64(n), nil
}

func (q *natsQueue) disk(context.Context) (int64, error) { return onDisk(q.dir) }

func (q *natsQueue) close() error {
	if q.messages != nil {
		q.messages.Stop()
	}
	if q.stop != nil {
		q.stop()
	}
	q.workers.Wait()
	q.poster.close()
	for _, c := range q.conns {
		c.Close()
	}
	if q.server != nil {
		q.server.Shutdown()
		q.server.WaitForShutdown()
	}
	return os.RemoveAll(q.dir)
}
