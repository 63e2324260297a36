package bolt

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCacheIsAsAMap compares the cache with a map, with numbers that are passed over and events that nobody claims.
func TestCacheIsAsAMap(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 3))
		var c cache
		left := map[uint64]int{}
		seq := uint64(0)
		for range 20_000 {
			if random.IntN(2) == 0 {
				seq++
				if random.IntN(10) == 0 {
					seq += uint64(random.IntN(500))
				}
				left[seq] = 1 + random.IntN(3)
				c.add(seq, &cached{created: int64(seq), left: left[seq], size: 1 + random.IntN(maxCache/200)})
				require.LessOrEqual(t, c.size, maxCache)
				require.LessOrEqual(t, len(c.slots), 2*c.kept+64)
				continue
			}
			want := seq - min(seq, uint64(random.IntN(1500)))
			e := c.take(want)
			switch {
			case e != nil:
				require.EqualValues(t, want, e.created)
				require.Positive(t, left[want], "%d was claimed as often as it can be", want)
				left[want]--
			case left[want] > 0:
				// It was dropped for want of room, with all that are older.
				if i, found := c.find(want); found {
					require.Nil(t, c.slots[i].event)
				} else {
					require.Less(t, want, c.slots[0].seq)
				}
				delete(left, want)
			}
		}
		kept, size := 0, 0
		for _, s := range c.slots {
			if s.event != nil {
				kept++
				size += s.event.size
			}
		}
		require.Equal(t, []int{kept, size}, []int{c.kept, c.size})
	}
}

func TestCacheTakesNoMoreThanThereIs(t *testing.T) {
	t.Parallel()
	var c cache
	require.Nil(t, c.take(0))
	for seq := uint64(10); seq < 20; seq += 2 {
		c.add(seq, &cached{left: 1, size: maxCache / 4})
	}
	for _, seq := range []uint64{0, 9, 10, 11, 13, 19, 20, 1 << 41} {
		require.Nil(t, c.take(seq), "%d", seq)
	}
	for _, seq := range []uint64{12, 14, 16, 18} {
		require.NotNil(t, c.take(seq), "%d", seq)
		require.Nil(t, c.take(seq), "%d", seq)
	}
	require.Zero(t, c.size)
}
