package bench_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
)

// delivering is what the workers of the peers share: they post, and count what was answered with 200.
type delivering struct {
	*poster
	posted atomic.Int64
	failed atomic.Int64
}

func newDelivering(b *testing.B, w *work) *delivering { return &delivering{poster: newPoster(b, w)} }

func (d *delivering) deliver(ctx context.Context, hook int, id string, body []byte) error {
	if err := d.post(ctx, hook, id, body); err != nil {
		d.failed.Add(1)
		return err
	}
	d.posted.Add(1)
	return nil
}

// answered reports whether n events were, and fails if a request was not: the peers would try it again, later.
func (d *delivering) answered(n int) (bool, error) {
	if failed := d.failed.Load(); failed > 0 {
		return false, fmt.Errorf("%d requests failed", failed)
	}
	return d.posted.Load() >= int64(n), nil
}

const idLen = 36 // of a UUID as text

// packed is event number i for a peer that takes bytes: the number of its webhook, a new ID, its payload.
func (w *work) packed(i int) []byte {
	payload := w.payloads[i%len(w.payloads)]
	data := make([]byte, 0, 2+idLen+len(payload))
	data = binary.BigEndian.AppendUint16(data, uint16(i%hooks))
	data = append(data, uuid.Must(uuid.NewV7()).String()...)
	return append(data, payload...)
}

// deliverPacked delivers what packed has returned.
func (d *delivering) deliverPacked(ctx context.Context, data []byte) error {
	hook, id := binary.BigEndian.Uint16(data), string(data[2:2+idLen])
	return d.deliver(ctx, int(hook), id, data[2+idLen:])
}
