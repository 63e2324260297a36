package bolt

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func TestWithoutPayloadIsTheSameEvent(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 127, 128, 1024, 1 << 20} {
		for _, e := range []postrider.Event{
			{ID: "e", Type: "a"},
			{
				ID: strings.Repeat("i", 64), Project: "p", Type: strings.Repeat("t", 128), Time: time.Date(2026, 3, 1, 12, 0, 0, 5000, time.UTC),
				ContentType: "text/plain", Metadata: map[string]string{"k": strings.Repeat("v", 500)}, OrderKey: "o",
			},
		} {
			want := e
			if size > 0 {
				e.Payload = bytes.Repeat([]byte("x"), size)
			}
			record, err := e.AppendBinary(nil)
			require.NoError(t, err)
			brief := withoutPayload(nil, record)
			require.Len(t, brief, len(withoutPayload(make([]byte, 0, 256), record)))
			require.LessOrEqual(t, len(brief), len(record))
			var got postrider.Event
			require.NoError(t, got.UnmarshalBinary(brief))
			require.Equal(t, want, got)
		}
	}
	for _, damaged := range [][]byte{nil, {1}, {1, 0xff}, {1, 200, 1, 0}} {
		var e postrider.Event
		require.Error(t, e.UnmarshalBinary(withoutPayload(nil, damaged)))
	}
}
