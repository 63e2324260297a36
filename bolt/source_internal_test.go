package bolt

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/queue"
)

// A retry, or one that was promoted, that is committed between a reading of the file and its end may be due before
// what was read. It was lost until the store was opened again.
func TestLeftToTheFileWhileItIsRead(t *testing.T) {
	t.Parallel()
	for _, e := range []queue.Entry{{Seq: 2, Due: 20}, {Seq: 4, Due: 40}} {
		file := []queue.Entry{{Seq: 1, Due: 10}, {Seq: 3, Due: 30}}
		h := &hook{}
		h.later.more = true
		turn, skipped := h.later.turn, h.later.skipped
		h.wait(e)
		h.later.fill(file, turn, skipped)
		_, answer := h.Head()
		require.Equal(t, queue.Load, answer, "what was left to the file is read before anything after it is handed out")
		h.later.fill(append(file, e), h.later.turn, h.later.skipped)
		var got []uint64
		for _, answer := h.Head(); answer == queue.Have; _, answer = h.Head() {
			got = append(got, h.later.Entries[0].Seq)
			h.Pop()
		}
		require.ElementsMatch(t, []uint64{1, 3, e.Seq}, got)
	}
}
