package postrider_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// TestEachAttemptHasItsOwnTime has one worker make all attempts, so that they share what limits their time: one that
// takes nearly all of it, one that takes too much, and so on, and in the end one that the end of Run cuts off.
func TestEachAttemptHasItsOwnTime(t *testing.T) {
	t.Parallel()
	const limit = 1500 * time.Millisecond // a slow request would give its worker back
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{serve: func(c net.Conn) {
			in := bufio.NewReader(c)
			for {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				if strings.HasPrefix(r.Header.Get("Webhook-Id"), "hangs") {
					_, _ = in.ReadByte() // until the sender gives up
					return
				}
				time.Sleep(limit - time.Millisecond)
				_, _ = io.WriteString(c, plain)
			}
		}}
		d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{
			Concurrency: 1, Timeout: limit, Drain: time.Second, Retry: postrider.Schedule{}, Logger: quiet(),
		})
		require.NoError(t, err)
		d.Own().DialBy(p.dial)
		hook := validWebhook()
		hook.URL = "http://a.example/"
		_, err = d.CreateWebhook(t.Context(), hook)
		require.NoError(t, err)
		ids := []string{"1", "2", "hangs-3", "4", "hangs-5", "hangs-6", "7", "8", "hangs-9"}
		for _, id := range ids {
			_, err := d.Emit(t.Context(), postrider.Event{ID: id, Type: "x", Payload: []byte(`{}`)})
			require.NoError(t, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- d.Run(ctx) }()
		time.Sleep(8*limit + time.Millisecond)
		cancel()
		require.NoError(t, <-ended)
		p.work.Wait()

		page, err := d.Attempts(t.Context(), postrider.AttemptQuery{})
		require.NoError(t, err)
		slices.SortFunc(page.Items, func(a, b postrider.Attempt) int { return a.StartedAt.Compare(b.StartedAt) })
		require.Len(t, page.Items, len(ids)-1, "the last is cut off, not counted")
		for i, a := range page.Items {
			if strings.HasPrefix(ids[i], "hangs") {
				require.Equal(t, postrider.ClassTimeout, a.Class, ids[i])
				require.Equal(t, limit, a.FinishedAt.Sub(a.StartedAt), ids[i])
				continue
			}
			require.Equal(t, 200, a.Code, "%s: %s", ids[i], a.Error)
			require.Equal(t, limit-time.Millisecond, a.FinishedAt.Sub(a.StartedAt), ids[i])
		}
	})
}
