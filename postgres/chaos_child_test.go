package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// Some tests start this binary again, with what the process is to do in the environment; the server it finds in
// POSTRIDER_POSTGRES.
const (
	childEnv  = "POSTRIDER_TEST_CHILD" // deliver, emit or migrate
	numberEnv = "POSTRIDER_TEST_NUMBER"
	schemaEnv = "POSTRIDER_TEST_SCHEMA"

	chaosConcurrency = 8
	chaosTimeout     = 2 * time.Second
	chaosLease       = chaosTimeout + 30*time.Second
	chaosApplication = "postrider-chaos"
)

// Headers that say whose request it is, for the judge.
const (
	headerProcess  = "X-Process"
	headerToken    = "X-Token"
	headerClaimed  = "X-Claimed" // before the Claim, in Unix microseconds
	headerDelivery = "X-Delivery"
	headerAttempt  = "X-Attempt"
)

var loopback = postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}

// TestChild is not a test: it is what other tests run in processes of their own.
func TestChild(t *testing.T) {
	name := os.Getenv(childEnv)
	if name == "" {
		t.Skip("runs in the processes that other tests start")
	}
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	if name == "migrate" {
		require.NoError(t, postgres.Migrate(ctx, pool, postgres.Options{Schema: os.Getenv(schemaEnv)}))
		return
	}
	store, own := childStore(ctx, t)
	if name == "emit" {
		emitUntilKilled(t, store, own)
		return
	}
	h := &hands{Store: store, held: map[string]hold{}}
	d, err := postrider.New(h, postrider.Config{
		Sender: &tagging{postrider.HTTPSender{Network: loopback}, h}, Network: loopback,
		MaxTimeout: chaosTimeout, Timeout: chaosTimeout, Concurrency: chaosConcurrency,
		Retry: soon{}, BreakAfter: 1 << 20, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	require.NoError(t, d.Run(ctx))
	require.NoError(t, store.Close())
}

// childStore opens the store, as soon as the server lets it.
func childStore(ctx context.Context, t *testing.T) (*postgres.Store, *pgxpool.Pool) {
	c, err := pgxpool.ParseConfig(os.Getenv("POSTRIDER_POSTGRES"))
	require.NoError(t, err)
	c.MaxConns = 6
	c.ConnConfig.RuntimeParams["application_name"] = chaosApplication
	own, err := pgxpool.NewWithConfig(ctx, c)
	require.NoError(t, err)
	for {
		s, err := postgres.New(own, postgres.Options{
			Schema: os.Getenv(schemaEnv), UnsafeNoFsync: true, Poll: 200 * time.Millisecond,
		})
		if err == nil {
			return s, own
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// soon has failed attempts follow each other quickly, and does not give up.
type soon struct{}

func (soon) Next(int) (time.Duration, bool) { return 5 * time.Millisecond, true }

// hands is a store that remembers under which token each delivery was claimed, and when.
type hands struct {
	*postgres.Store
	mu   sync.Mutex
	held map[string]hold
}

type hold struct {
	token  string
	before time.Time
}

func (h *hands) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	before := time.Now()
	claims, wait, err := h.Store.Claim(ctx, r)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range claims {
		h.held[c.Delivery.ID] = hold{c.Token, before}
	}
	return claims, wait, err
}

// tagging is a sender that tells the judge what it needs.
type tagging struct {
	postrider.HTTPSender
	hands *hands
}

func (s *tagging) Send(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	s.hands.mu.Lock()
	h := s.hands.held[r.DeliveryID]
	s.hands.mu.Unlock()
	r.Header[headerProcess] = []string{os.Getenv(numberEnv)}
	r.Header[headerToken] = []string{h.token[:36]} // as the lease has it
	r.Header[headerClaimed] = []string{strconv.FormatInt(h.before.UnixMicro(), 10)}
	r.Header[headerDelivery] = []string{r.DeliveryID}
	r.Header[headerAttempt] = []string{strconv.Itoa(r.Attempt)}
	return s.HTTPSender.Send(ctx, r)
}

// emitUntilKilled emits from some goroutines, and prints "ack <id>" for each event once it is stored. After an error it
// emits the same events again: it cannot know. A third of the calls are in transactions of its own, a third in a lane.
// The ID is <lane>-<place>: what one goroutine emits in a lane it does in the order of the places.
func emitUntilKilled(t *testing.T, store *postgres.Store, own *pgxpool.Pool) {
	d, err := postrider.New(store, postrider.Config{Network: loopback})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for n := 0; ; {
				events := make([]postrider.Event, 1+rand.IntN(4))
				lane := fmt.Sprintf("%s_%d", os.Getenv(numberEnv), g)
				for i := range events {
					n++
					events[i] = postrider.Event{ID: fmt.Sprintf("%s-%d", lane, n), Type: "t", Payload: []byte(`{}`), OrderKey: lane}
					if n%3 > 0 {
						events[i].OrderKey, events[i].ID = "", fmt.Sprintf("free_%s-%d", lane, n)
					}
				}
				emit := func() error {
					_, err := d.EmitAll(t.Context(), events)
					return err
				}
				if rand.IntN(3) == 0 {
					emit = func() error {
						return pgx.BeginFunc(t.Context(), own, func(tx pgx.Tx) error {
							_, err := d.In(store.Tx(tx)).EmitAll(t.Context(), events)
							return err
						})
					}
				}
				for emit() != nil {
					time.Sleep(20 * time.Millisecond)
				}
				var b strings.Builder
				for i := range events {
					fmt.Fprintf(&b, "ack %s\n", events[i].ID)
				}
				_, _ = os.Stdout.WriteString(b.String())
				time.Sleep(time.Duration(20+rand.IntN(60)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
}

// child is a process of another test.
type child struct {
	*exec.Cmd
	name   string
	number int
	stderr strings.Builder
	read   sync.WaitGroup
}

// startChild starts one; line is told what it prints.
func startChild(t *testing.T, name string, number int, dsn, schema string, line func(string)) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.timeout=20m"), name: name, number: number}
	c.Env = append(os.Environ(),
		"POSTRIDER_POSTGRES="+dsn, childEnv+"="+name, numberEnv+"="+strconv.Itoa(number), schemaEnv+"="+schema)
	c.Stderr = &c.stderr
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	c.read.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			line(lines.Text())
		}
	})
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// kill ends the process without notice, and returns when all that it printed is read.
func (c *child) kill() error {
	_ = c.Process.Kill()
	c.read.Wait()
	return c.Wait()
}
