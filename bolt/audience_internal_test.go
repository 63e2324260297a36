package bolt

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// TestMatchingIsAsLookingAtEachWebhook compares an audience that grows, changes and shrinks with a plain list.
func TestMatchingIsAsLookingAtEachWebhook(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, 1))
		typ := func() string {
			return fmt.Sprintf("%c.%c%d", 'a'+rune(random.IntN(3)), 'a'+rune(random.IntN(3)), random.IntN(30))
		}
		webhook := func() *postrider.Webhook {
			w := &postrider.Webhook{}
			for range 1 + random.IntN(3) {
				pattern := typ()
				switch random.IntN(20) {
				case 0:
					pattern = "*"
				case 1, 2, 3:
					pattern = pattern[:random.IntN(len(pattern))] + "*"
				}
				w.Events = append(w.Events, pattern)
			}
			return w
		}
		a, plain := &audience{}, []listener{}
		indexes := map[*patterns]bool{}
		for no := uint32(1); no < 1500; no++ {
			old, before := a, slices.Clone(a.hooks)
			switch {
			case random.IntN(4) > 0 || len(plain) == 0:
				l := listener{no, webhook()}
				a, plain = a.with(l).indexed(), append(plain, l)
			case random.IntN(2) == 0:
				i := random.IntN(len(plain))
				plain[i].webhook = webhook()
				a = a.but(plain[i])
			default:
				i := random.IntN(len(plain))
				a = a.but(listener{plain[i].no, nil})
				plain = slices.Delete(plain, i, i+1)
			}
			require.Equal(t, before, old.hooks[:len(before)], "whoever has an audience may read it")
			indexes[a.index] = true
			for range 3 {
				eventType := typ()
				var got, want []listener
				a.matching(eventType, func(l listener) { got = append(got, l) })
				for _, l := range plain {
					if l.webhook.Matches(eventType) {
						want = append(want, l)
					}
				}
				require.Equal(t, want, got, "seed %d, %d webhooks, %s", seed, len(plain), eventType)
			}
		}
		require.Greater(t, len(indexes), 5)
		require.Less(t, len(indexes), 40, "an index is not made each time")
		require.Less(t, len(a.hooks), len(plain)+200, "what is gone is forgotten")
		require.Equal(t, a, a.but(listener{1 << 30, nil}))
	}
}
