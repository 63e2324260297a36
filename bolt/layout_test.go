package bolt

import (
	"bytes"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func TestDeliveryIDsAreUUIDv7AndHoldTheirPlace(t *testing.T) {
	t.Parallel()
	m := mask{high: 0xabc, low: 0x1234_5678_9abc_def0 & (1<<62 - 1)}
	for _, c := range []struct {
		created int64
		seq     uint64
		hook    uint32
	}{{0, 1, 1}, {1_772_366_400_123_456, 42, 7}, {1_772_366_400_123_456, maxSeq, 1<<32 - 1}, {253_402_300_799_999_999, 1 << 30, 1 << 31}} {
		id := m.deliveryID(c.created, c.seq, c.hook)
		u := uuid.MustParse(id)
		require.EqualValues(t, 7, u.Version())
		require.Equal(t, uuid.RFC4122, u.Variant())
		ms, seq, hook, ok := m.split(id)
		require.True(t, ok)
		require.Equal(t, c.created/1000, ms)
		require.Equal(t, c.seq, seq)
		require.Equal(t, c.hook, hook)
	}
	for _, id := range []string{"", "x", "urn:uuid:" + m.deliveryID(1, 1, 1), uuid.Must(uuid.NewRandom()).String(), "019CA945-0A7B-7061-B997-EA014EA43290"} {
		_, _, _, ok := m.split(id)
		require.False(t, ok, id)
	}
}

func FuzzRecords(f *testing.F) {
	e := ended{status: postrider.StatusInProcess, due: 77, finished: 0}
	e.add([]byte("attempt"))
	f.Add(e.append(nil))
	f.Add((&stat{indexed: 9}).append(nil))
	f.Add(state{seq: 1, tail: 2, created: 3, hooks: 4}.append(nil))
	f.Add([]byte{flagReplay, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 'e'})
	f.Add([]byte{flagKey, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0, 5, 1, 0x80, 0, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 'e'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEnded(b); err == nil {
			again, err := decodeEnded(e.append(nil))
			if err != nil || again.status != e.status || again.due != e.due || again.finished != e.finished || again.attempts != e.attempts || !bytes.Equal(again.raw, e.raw) {
				t.Fatalf("%+v became %+v: %v", e, again, err)
			}
			_, _ = e.list("d", "w")
		}
		if s, err := decodeStat(b); err == nil {
			if again, err := decodeStat(s.append(nil)); err != nil || again != s {
				t.Fatalf("%+v became %+v: %v", s, again, err)
			}
		}
		if s, err := decodeState(b); err == nil && !bytes.Equal(s.append(nil), b) {
			t.Fatalf("%+v does not encode to %x", s, b)
		}
		if r, err := decodeRecord(b); err == nil && r.len() > 0 {
			_, _ = r.lane(r.hook(r.len() - 1))
		}
	})
}
