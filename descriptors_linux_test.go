package postrider_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

const starvedEnv = "POSTRIDER_STARVED_URL"

// A process of its own runs out of descriptors while it sends, and gets some back.
func TestStarvedProcessBurnsNoAttempt(t *testing.T) {
	if url := os.Getenv(starvedEnv); url != "" {
		starve(t, url)
		return
	}
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStarvedProcessBurnsNoAttempt$", "-test.count=1")
	cmd.Env = append(os.Environ(), starvedEnv+"="+server.URL)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "PASS")
}

func starve(t *testing.T, url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // the runtime opens a descriptor of its own with the first socket
	require.NoError(t, err)
	require.NoError(t, l.Close())
	var sends atomic.Int64
	inner := &postrider.HTTPSender{Network: loopback}
	sender := senderFunc(func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		sends.Add(1)
		return inner.Send(ctx, r)
	})
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Network: loopback, Sender: sender, Logger: quiet()})
	require.NoError(t, err)
	hook := validWebhook()
	hook.URL = url
	_, err = d.CreateWebhook(t.Context(), hook)
	require.NoError(t, err)
	var ids []string
	for i := range 20 {
		r, err := d.Emit(t.Context(), postrider.Event{ID: fmt.Sprint(i), Type: "x", Payload: []byte(`{}`)})
		require.NoError(t, err)
		ids = append(ids, r.Deliveries...)
	}

	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}))
	var held []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			require.ErrorIs(t, err, syscall.EMFILE)
			break
		}
		held = append(held, f)
	}
	require.NotEmpty(t, held)
	stop := start(d)
	time.Sleep(time.Second)
	require.Zero(t, stats(t, d).AttemptsOK+stats(t, d).AttemptsFailed)
	tried := sends.Load()
	require.Positive(t, tried)
	require.LessOrEqual(t, tried, int64(5), "0, 0.1, 0.3, 0.7 s")
	for _, f := range held {
		require.NoError(t, f.Close())
	}
	for _, id := range ids {
		v, err := d.AwaitDelivery(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, 1, v.Attempts)
	}
	require.NoError(t, stop())
	inner.CloseIdleConnections()
}
