package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// comes returns what comes out of a channel, for which nobody should have to wait long.
func comes(t *testing.T, what string, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(20 * time.Second):
		require.FailNow(t, what+" stands still")
		return nil
	}
}

// A server that takes no more connections holds up neither who enqueues in a transaction nor Close.
func TestNobodyWaitsForTheListener(t *testing.T) {
	t.Parallel()
	o := fresh(t)
	c := pool.Config()
	dial := c.ConnConfig.DialFunc
	var mute atomic.Bool
	asked := make(chan error, 1)
	c.ConnConfig.ConnectTimeout = 0
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !mute.Load() {
			return dial(ctx, network, addr)
		}
		select {
		case asked <- nil:
		default:
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	p, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	s, err := postgres.New(p, o)
	require.NoError(t, err)
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	s.Chores(t.Context())
	s.SetRollUp(time.Hour) // Wait has none to do then
	tx, err := p.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tx.Rollback(context.Background())) })
	mute.Store(true)
	p.Reset() // what is idle

	waits, stores, closes := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { waits <- s.Wait(t.Context()) }()
	require.NoError(t, comes(t, "Wait, before it listens,", asked))
	go func() {
		_, err := s.Tx(tx).Enqueue(t.Context(), []postrider.Item{event("1")})
		stores <- err
	}()
	require.NoError(t, comes(t, "Enqueue", stores))
	go func() { closes <- s.Close() }()
	require.NoError(t, comes(t, "Close", closes))
	require.ErrorIs(t, comes(t, "Wait", waits), postrider.ErrClosed)
}

// Of an Emit that was given up while another stored its event, all is stored as it was given, if it is.
func TestWhatIsStoredIsWhatWasGiven(t *testing.T) {
	t.Parallel()
	o := fresh(t)
	o.PollOnly = true
	c := pool.Config()
	var gated atomic.Bool
	var at chan error
	var gate chan struct{}
	c.PrepareConn = func(ctx context.Context, _ *pgx.Conn) (bool, error) {
		if !gated.Load() {
			return true, nil
		}
		at <- nil
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return true, nil
	}
	p, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	s, err := postgres.New(p, o)
	require.NoError(t, err)
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	d, err := postrider.New(s, postrider.Config{})
	require.NoError(t, err)

	const payload, value = `{"amount":1}`, "given"
	emit := func(ctx context.Context, id string, payload []byte, metadata map[string]string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := d.Emit(ctx, postrider.Event{ID: id, Project: "p", Type: "t", Payload: payload, Metadata: metadata})
			done <- err
		}()
		return done
	}
	var e postrider.Event
	for n := 0; ; n++ { // nobody sees that one has joined the queue: if it was too slow, nothing of it is stored
		require.Less(t, n, 10, "it never joins the batch of another")
		settle := 50 * time.Millisecond << n
		at, gate = make(chan error, 10), make(chan struct{})
		gated.Store(true)
		no := strconv.Itoa(n)
		first := emit(t.Context(), "first"+no, []byte(`{}`), nil)
		require.NoError(t, comes(t, "the first, before it stores,", at))
		leader := emit(t.Context(), "leader"+no, []byte(`{}`), nil)
		time.Sleep(settle)
		ctx, giveUp := context.WithCancel(t.Context())
		buf, metadata := []byte(payload), map[string]string{"key": value}
		follower := emit(ctx, "follower"+no, buf, metadata)
		time.Sleep(settle)
		gate <- struct{}{}
		require.NoError(t, comes(t, "the first", first))
		require.NoError(t, comes(t, "the leader, before it stores,", at))
		giveUp()
		require.ErrorIs(t, comes(t, "the follower", follower), context.Canceled)
		copy(buf, `{"amount":2}`) // they are the caller's again
		metadata["key"] = "changed"
		gated.Store(false)
		close(gate)
		require.NoError(t, comes(t, "the leader", leader))
		e, err = s.Event(t.Context(), "p", "follower"+no)
		if !errors.Is(err, postrider.ErrNotFound) {
			break
		}
	}
	require.NoError(t, err)
	require.Equal(t, payload, string(e.Payload))
	require.Equal(t, map[string]string{"key": value}, e.Metadata)
}

// A Claim whose process stands still, and reads no more of its answer, keeps the webhook from others for Options.Timeout.
func TestAClaimThatNobodyReadsLetsGo(t *testing.T) {
	t.Parallel()
	o := fresh(t)
	other := open(t, o)
	require.NoError(t, other.CreateWebhook(t.Context(), hook("a")))
	const events, size = 40, 1 << 20 // more than all buffers on the way hold
	var items []postrider.Item
	for i := range events {
		it := event(strconv.Itoa(i))
		it.Event.Payload = []byte(`"` + string(bytes.Repeat([]byte("x"), size)) + `"`)
		items = append(items, it)
	}
	_, err := other.Enqueue(t.Context(), items)
	require.NoError(t, err)

	p, deaf := deafening(t, size)
	o.Timeout, o.PollOnly = 2*time.Second, true
	s, err := postgres.New(p, o)
	require.NoError(t, err)
	claimed := make(chan error, 1)
	go func() {
		_, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: events, Lease: time.Hour})
		claimed <- err
	}()
	require.NoError(t, comes(t, "the Claim, before nobody reads it,", deaf))
	require.ErrorIs(t, comes(t, "the Claim", claimed), context.DeadlineExceeded)
	got := 0
	for deadline := time.Now().Add(20 * time.Second); got < events && time.Now().Before(deadline); {
		claims, _, err := other.Claim(t.Context(), postrider.ClaimRequest{Max: events, Lease: time.Hour})
		require.NoError(t, err)
		got += len(claims)
		time.Sleep(20 * time.Millisecond)
	}
	require.Equal(t, events, got, "the webhook stays locked")
}

// deafening returns a pool whose connections nobody reads any more, nor closes, once the server has sent so many bytes:
// then deaf has something.
func deafening(t *testing.T, most int64) (p *pgxpool.Pool, deaf <-chan error) {
	t.Helper()
	c := pool.Config()
	dial := c.ConnConfig.DialFunc
	var heard atomic.Int64
	full := make(chan error, 1)
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if heard.Load() >= most { // to cancel what is not read
			return nil, errors.New("the network is gone")
		}
		server, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		client, proxy := net.Pipe()
		t.Cleanup(func() {
			_, _ = proxy.Close(), server.Close()
		})
		go func() { _, _ = io.Copy(server, proxy) }()
		go func() {
			buf := make([]byte, 8<<10)
			for heard.Load() < most {
				n, err := server.Read(buf)
				if err != nil {
					return
				}
				heard.Add(int64(n))
				_, _ = proxy.Write(buf[:n])
			}
			select {
			case full <- nil:
			default:
			}
		}()
		return client, nil
	}
	p, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p, full
}
