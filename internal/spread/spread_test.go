package spread_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/spread"
)

func TestEveryItemIsWorkedOnOnce(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, spread.Part - 1, spread.Part, spread.Part + 1, 10*spread.Part + 3} {
		times := make([]int, n)
		var calls atomic.Int64
		spread.Over(n, func(from, to int) {
			calls.Add(1)
			for i := from; i < to; i++ {
				times[i]++ // the race detector sees who else does
			}
		})
		for i := range times {
			require.Equal(t, 1, times[i], "item %d of %d", i, n)
		}
		require.EqualValues(t, (n+spread.Part-1)/spread.Part, calls.Load())
	}
}

func TestPartsBeginAtMultiples(t *testing.T) {
	t.Parallel()
	const n = 5*spread.Part + 1
	ends := make([]int, 6)
	spread.Over(n, func(from, to int) {
		if from%spread.Part == 0 {
			ends[from/spread.Part] = to
		}
	})
	require.Equal(t, []int{spread.Part, 2 * spread.Part, 3 * spread.Part, 4 * spread.Part, 5 * spread.Part, n}, ends)
}

func TestAPanicIsTheCallers(t *testing.T) {
	t.Parallel()
	for _, at := range []int{0, spread.Part, 9 * spread.Part} {
		require.PanicsWithValue(t, "no", func() {
			spread.Over(10*spread.Part, func(from, _ int) {
				if from == at {
					panic("no")
				}
			})
		})
	}
}

func TestFinishIsForSeveral(t *testing.T) {
	t.Parallel()
	const n = 20 * spread.Part
	times := make([]int, n)
	finish := spread.Start(n, func(from, to int) {
		for i := from; i < to; i++ {
			times[i]++
		}
	})
	var calls sync.WaitGroup
	for range 3 {
		calls.Go(func() {
			finish()
			for i := range times {
				if times[i] != 1 {
					panic("not done") // the race detector sees more
				}
			}
		})
	}
	calls.Wait()
}

func TestEachFinishPanics(t *testing.T) {
	t.Parallel()
	finish := spread.Start(3*spread.Part, func(int, int) { panic("no") })
	require.PanicsWithValue(t, "no", finish)
	require.PanicsWithValue(t, "no", finish)
}
