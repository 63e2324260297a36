package cursor_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
)

func TestCursorIsBoundToItsQuery(t *testing.T) {
	t.Parallel()
	q := postrider.DeliveryQuery{WebhookID: "w", Limit: 5}
	text := cursor.Encode(cursor.Deliveries(q), 7, 1<<40)
	var a, b uint64
	q.Limit, q.Cursor = 9, text // neither is part of the query
	set, err := cursor.Decode(text, cursor.Deliveries(q), &a, &b)
	require.NoError(t, err)
	require.True(t, set)
	require.Equal(t, []uint64{7, 1 << 40}, []uint64{a, b})
	q.Ascending = true
	_, err = cursor.Decode(text, cursor.Deliveries(q), &a, &b)
	require.ErrorIs(t, err, postrider.ErrInvalid)
	_, err = cursor.Decode(text, cursor.Attempts(postrider.AttemptQuery{WebhookID: "w"}), &a, &b)
	require.ErrorIs(t, err, postrider.ErrInvalid)
}

func FuzzDecode(f *testing.F) {
	f.Add("", uint64(1))
	f.Add(cursor.Encode(1, 2, 3), uint64(1))
	f.Add("AAAA*", uint64(1))
	f.Fuzz(func(t *testing.T, text string, key uint64) {
		var a, b uint64
		set, err := cursor.Decode(text, key, &a, &b)
		switch {
		case err != nil:
			var v *postrider.ValidationError
			if !errors.As(err, &v) || set {
				t.Fatalf("Decode(%q) = %v, %v", text, set, err)
			}
		case text == "" && set:
			t.Fatal("an empty cursor is a position")
		case text != "":
			var c, d uint64
			if _, err := cursor.Decode(cursor.Encode(key, a, b), key, &c, &d); err != nil || a != c || b != d {
				t.Fatalf("%d %d became %d %d: %v", a, b, c, d, err)
			}
		}
	})
}
