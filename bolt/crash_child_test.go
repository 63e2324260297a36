package bolt_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// The tests that need a process of their own start this binary again, with the child's name and what it needs in the
// environment. A child talks on standard output, a line at a time, in one write.
const (
	childEnv = "POSTRIDER_TEST_CHILD"
	pathEnv  = "POSTRIDER_TEST_PATH"
	urlEnv   = "POSTRIDER_TEST_URL"
	seedEnv  = "POSTRIDER_TEST_SEED"
)

var children = map[string]func(t *testing.T, path string){
	"emit":    emitUntilKilled,
	"emit tx": emitInTxUntilKilled,
}

// TestChild is not a test: it is what the other tests run in a process of their own.
func TestChild(t *testing.T) {
	name := os.Getenv(childEnv)
	if name == "" {
		t.Skip("runs in the processes that other tests start")
	}
	children[name](t, os.Getenv(pathEnv))
}

// child is a process of another test.
type child struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr strings.Builder
}

// startChild starts a child; env is further entries of its environment.
func startChild(t *testing.T, name, path string, env ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.timeout=5m")}
	c.Env = append(append(os.Environ(), childEnv+"="+name, pathEnv+"="+path), env...)
	c.Stderr = &c.stderr
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewReader(out)
	c.in, err = c.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// line returns the next whole line that the child printed, and false after the last.
func (c *child) line() (string, bool) {
	line, err := c.out.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err == nil
}

// randomOf returns a source of random numbers and its seed: the one in the environment, or a new one.
func randomOf(t *testing.T) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("random numbers from %s=%d", seedEnv, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// listeners are the webhooks of the crash tests, by name, which is the path of their URL too.
var listeners = []postrider.Webhook{
	{Name: "all", Events: []string{"*"}},
	{Name: "all-flaky", Events: []string{"*"}},
	{Name: "a", Events: []string{"a.*"}},
	{Name: "b", Events: []string{"b.*"}},
	{Name: "a1", Events: []string{"a.1"}},
	{Name: "b2", Events: []string{"b.2"}},
	{Name: "b2-flaky", Events: []string{"b.2"}},
	{Name: "c-and-a2", Events: []string{"c.*", "a.2"}},
	{Name: "c3", Events: []string{"c.3"}, Ordered: true},
	{Name: "none", Events: []string{"z"}},
}

// audienceOf returns the names of the listeners that want events of the type.
func audienceOf(typ string) (names []string) {
	for i := range listeners {
		if listeners[i].Matches(typ) {
			names = append(names, listeners[i].Name)
		}
	}
	return names
}

const (
	crashInFlight = 16
	crashEmitters = 8
)

// soon has failed attempts follow each other quickly, and does not give up.
func soon(int) (time.Duration, bool) { return 5 * time.Millisecond, true }

type policy func(int) (time.Duration, bool)

func (p policy) Next(n int) (time.Duration, bool) { return p(n) }

// crashing returns a dispatcher as the crash tests use it, with the listeners in its store.
func crashing(t *testing.T, store postrider.Store, url string) *postrider.Dispatcher {
	t.Helper()
	loopback := postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	d, err := postrider.New(store, postrider.Config{Concurrency: crashInFlight, Retry: policy(soon), BreakAfter: 1 << 20, Network: loopback})
	require.NoError(t, err)
	for _, w := range listeners {
		w.URL = url + "/" + w.Name
		_, err := d.EnsureWebhook(t.Context(), w)
		require.NoError(t, err)
	}
	return d
}

// emitUntilKilled emits from some goroutines, and prints a line "ack id type" for each event once its Emit has
// returned nil. The ID begins with the call it was in and the number of events of that call. A third of the calls have
// an order key, which no other goroutine uses.
func emitUntilKilled(t *testing.T, path string) {
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	d := crashing(t, store, os.Getenv(urlEnv))
	emitting(t, func(ctx context.Context, events []postrider.Event, _ bool) error {
		if len(events) == 1 {
			_, err := d.Emit(ctx, events[0])
			return err
		}
		_, err := d.EmitAll(ctx, events)
		return err
	}, d)
}

// ownRows is where emitInTxUntilKilled writes a row for each event, in the transaction in which it emits it.
var ownRows = []byte("rows of the program")

var errChanged = errors.New("the program has changed its mind")

// emitInTxUntilKilled does what emitUntilKilled does in transactions of its own, some of which it rolls back.
func emitInTxUntilKilled(t *testing.T, path string) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	require.NoError(t, err)
	store, err := bolt.New(db, bolt.Options{})
	require.NoError(t, err)
	d := crashing(t, store, os.Getenv(urlEnv))
	emitting(t, func(ctx context.Context, events []postrider.Event, giveUp bool) error {
		return db.Update(func(tx *bbolt.Tx) error {
			rows, err := tx.CreateBucketIfNotExists(ownRows)
			if err != nil {
				return err
			}
			for _, e := range events {
				if err := rows.Put([]byte(e.ID), []byte(e.Type)); err != nil {
					return err
				}
				if _, err := d.In(store.Tx(tx)).Emit(ctx, e); err != nil {
					return err
				}
			}
			if giveUp {
				return errChanged
			}
			return nil
		})
	}, d)
}

// emitting calls emit from some goroutines while the dispatcher runs. It returns only if something fails.
func emitting(t *testing.T, emit func(ctx context.Context, events []postrider.Event, giveUp bool) error, d *postrider.Dispatcher) {
	failed := make(chan error)
	go func() { failed <- d.Run(t.Context()) }()
	var calls atomic.Int64
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	require.NoError(t, err)
	for n := range crashEmitters {
		random := rand.New(rand.NewPCG(seed, uint64(n)+1))
		go func() {
			for {
				key := ""
				if random.IntN(3) == 0 {
					key = fmt.Sprintf("%d_%d", n, random.IntN(3))
				}
				events := randomEvents(random, fmt.Sprintf("%x-%s-%d", seed, key, calls.Add(1)), key)
				giveUp := random.IntN(8) == 0
				switch err := emit(t.Context(), events, giveUp); {
				case errors.Is(err, errChanged):
				case err != nil:
					failed <- err
					return
				default:
					acknowledge(events)
				}
				<-time.After(time.Duration(random.IntN(4000)) * time.Microsecond)
			}
		}()
	}
	require.NoError(t, <-failed)
}

func randomEvents(random *rand.Rand, call, key string) []postrider.Event {
	n := 1
	if random.IntN(5) == 0 {
		n += random.IntN(8)
	}
	events := make([]postrider.Event, n)
	for i := range events {
		id := fmt.Sprintf("%s-%d-%d", call, n, i)
		size := random.IntN(200)
		if random.IntN(10) == 0 {
			size = random.IntN(20_000)
		}
		events[i] = postrider.Event{
			ID:       id,
			Type:     fmt.Sprintf("%c.%d", "abc"[random.IntN(3)], 1+random.IntN(3)),
			Payload:  payloadOf(id, size),
			OrderKey: key,
		}
	}
	return events
}

func payloadOf(id string, size int) []byte {
	b, err := json.Marshal(map[string]any{"id": id, "size": size, "pad": strings.Repeat("x", size)})
	if err != nil {
		panic(err)
	}
	return b
}

// acknowledge prints the lines of one call in one write, which reaches the parent whole.
func acknowledge(events []postrider.Event) {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "ack %s %s\n", e.ID, e.Type)
	}
	_, _ = os.Stdout.WriteString(b.String())
}
