package bolt_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

func init() { children["open"] = openWhenTold }

func TestOpenMakesAFileForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "webhooks.db")
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"webhooks.db"}, namesIn(t, folder))
	if runtime.GOOS != "windows" {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	}
	require.NoError(t, store.Close())
	require.NoError(t, store.Close(), "a second Close")
	require.Equal(t, []string{"webhooks.db"}, namesIn(t, folder))
	checkFile(t, path)
}

func TestOpenNamesTheFileItCannotOpen(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	text := filepath.Join(folder, "text.db")
	require.NoError(t, os.WriteFile(text, bytes.Repeat([]byte("not a database\n"), 10_000), 0o600))
	empty := filepath.Join(folder, "short.db")
	require.NoError(t, os.WriteFile(empty, []byte("x"), 0o600))
	for _, path := range []string{text, empty, folder, filepath.Join(folder, "missing", "webhooks.db")} {
		_, err := bolt.Open(path, bolt.Options{})
		require.ErrorContains(t, err, path)
	}
	require.Equal(t, []string{"short.db", "text.db"}, namesIn(t, folder))
}

func namesIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// openWhenTold opens the store once a line arrives, says what came of it, and holds it until standard input ends.
func openWhenTold(t *testing.T, path string) {
	in := bufio.NewReader(os.Stdin)
	say := func(s string) { _, _ = os.Stdout.WriteString(s + "\n") }
	say("ready")
	_, err := in.ReadString('\n')
	require.NoError(t, err)
	start := time.Now()
	store, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		say(fmt.Sprintf("after %v: %v", time.Since(start) < time.Second, err))
		return
	}
	say("open")
	_, _ = in.ReadString('\n')
	require.NoError(t, store.Close())
}

func TestTwoProcessesCannotHaveOneFile(t *testing.T) {
	t.Parallel()
	for range 3 {
		folder := t.TempDir()
		path := filepath.Join(folder, "webhooks.db")
		both := []*child{startChild(t, "open", path), startChild(t, "open", path)}
		for _, c := range both {
			line, ok := c.line()
			require.True(t, ok)
			require.Equal(t, "ready", line)
		}
		for _, c := range both { // both make the file
			_, err := c.in.Write([]byte("\n"))
			require.NoError(t, err)
		}
		opened := 0
		for _, c := range both {
			line, ok := c.line()
			require.True(t, ok)
			if line == "open" {
				opened++
				continue
			}
			require.Contains(t, line, "after true: ", "it took more than a second")
			require.Contains(t, line, path+": the file is in use by another process")
		}
		require.Equal(t, 1, opened)
		for _, c := range both {
			require.NoError(t, c.in.Close())
			require.NoError(t, c.Wait(), "%s", &c.stderr)
		}
		require.Equal(t, []string{"webhooks.db"}, namesIn(t, folder))
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		top, key := tx.Bucket([]byte("postrider")), []byte("\x00fixed")
		fixed := bytes.Clone(top.Get(key))
		fixed[3] = bolt.Format + 1
		return top.Put(key, fixed)
	}))
	require.NoError(t, db.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)

	_, err = bolt.Open(path, bolt.Options{})
	require.ErrorIs(t, err, postrider.ErrStore)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, fmt.Sprintf("has format %d, this version reads %d", bolt.Format+1, bolt.Format))
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "a file that is not understood must not be changed")
}

func TestNewLeavesTheRestOfTheDatabaseAlone(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "app.db"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"log", "users"} {
			b, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			if err := b.Put([]byte("k"), []byte("v")); err != nil {
				return err
			}
		}
		return nil
	}))
	store, err := bolt.New(db, bolt.Options{})
	require.NoError(t, err)
	require.NoError(t, emitOne(t, dispatching(t, store, &counter{}), "event"))
	require.NoError(t, store.Close())

	// Closing the store has left the database open.
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		var names []string
		err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if names = append(names, string(name)); string(name) != "postrider" {
				require.Equal(t, 1, b.Inspect().KeyN)
				require.Equal(t, "v", string(b.Get([]byte("k"))))
			}
			return nil
		})
		require.Equal(t, []string{"log", "postrider", "users"}, names)
		return err
	}))
	require.NoError(t, db.Close())
}

func TestNewRefusesABucketThatIsNotOurs(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "app.db"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("postrider"))
		return err
	}))
	_, err = bolt.New(db, bolt.Options{})
	require.ErrorIs(t, err, postrider.ErrStore)
	require.ErrorContains(t, err, db.Path())
	require.NoError(t, db.Close())
}

func TestReopenAfterCloseNeedNotScan(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	d := dispatching(t, store, &counter{})
	list := make([]postrider.Event, 1000)
	for i := range list {
		list[i] = postrider.Event{Type: "a", Payload: []byte(`"` + strings.Repeat("x", 1000) + `"`)}
	}
	const n = 20
	for range n {
		_, err := d.EmitAll(t.Context(), list)
		require.NoError(t, err)
	}
	for range 5 {
		require.NoError(t, store.Close())
		require.True(t, bolt.HasFreelist(path), "without it the file is read whole")
		store, err = bolt.Open(path, bolt.Options{})
		require.NoError(t, err)
		require.Equal(t, postrider.Stats{New: n * int64(len(list)), Due: n * int64(len(list))}, statsOf(t, store))
	}
	require.NoError(t, store.Close())
}

func TestTxOfAnotherDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	open := func(name string) *bbolt.DB {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), name), 0o600, nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return db
	}
	db, other := open("app.db"), open("other.db")
	store, err := bolt.New(db, bolt.Options{})
	require.NoError(t, err)
	d := dispatching(t, store, &counter{})
	refused := func(tx *bbolt.Tx) {
		_, err := d.In(store.Tx(tx)).Emit(t.Context(), postrider.Event{Type: "a", Payload: []byte("1")})
		require.ErrorIs(t, err, postrider.ErrStore)
		require.ErrorContains(t, err, "not an open write transaction of the store's database")
	}
	for _, writable := range []bool{false, true} {
		tx, err := other.Begin(writable)
		require.NoError(t, err)
		refused(tx)
		require.NoError(t, tx.Rollback())
	}
	tx, err := db.Begin(false)
	require.NoError(t, err)
	refused(tx)
	require.NoError(t, tx.Rollback())
	tx, err = db.Begin(true)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	refused(tx)
	require.Zero(t, statsOf(t, store))
	require.NoError(t, store.Close())
}

func TestCommitOfTheCallerWakes(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "app.db"), 0o600, nil)
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		store, err := bolt.New(db, bolt.Options{})
		require.NoError(t, err)
		sender := &counter{}
		d := dispatching(t, store, sender)
		emit := func(n int, end func(*bbolt.Tx) error) {
			tx, err := db.Begin(true)
			require.NoError(t, err)
			for range n {
				_, err := d.In(store.Tx(tx)).Emit(t.Context(), postrider.Event{Type: "a", Payload: []byte("1")})
				require.NoError(t, err)
			}
			require.NoError(t, end(tx))
		}
		wakes := func() (n int) {
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err := store.Wait(ctx)
				cancel()
				if err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					return n
				}
				n++
			}
		}
		wakes()
		emit(10, (*bbolt.Tx).Commit)
		require.Equal(t, 1, wakes(), "a transaction wakes once, however much was emitted in it")
		emit(10, (*bbolt.Tx).Rollback)
		require.Zero(t, wakes(), "a transaction that is rolled back wakes nobody")

		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- d.Run(ctx) }()
		delivered := func(n int64) {
			t.Helper()
			time.Sleep(time.Second) // 10 ms each, 8 at a time, the first alone
			require.Equal(t, postrider.Stats{Delivered: n, AttemptsOK: n}, statsOf(t, store))
		}
		delivered(10)
		emit(10, (*bbolt.Tx).Commit)
		delivered(20)
		emit(10, (*bbolt.Tx).Rollback)
		time.Sleep(time.Hour)
		delivered(20)
		emit(1, (*bbolt.Tx).Commit)
		delivered(21)
		cancel()
		require.NoError(t, <-ran)
		require.NoError(t, store.Close())
	})
	require.NoError(t, db.Close())
}

// counter is a Sender that delivers everything, in 10 ms, and counts.
type counter struct {
	mu   sync.Mutex
	sent map[string]int // by delivery
}

func (c *counter) Send(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	c.mu.Lock()
	if c.sent == nil {
		c.sent = map[string]int{}
	}
	c.sent[r.DeliveryID]++
	c.mu.Unlock()
	select {
	case <-time.After(10 * time.Millisecond):
		return postrider.Response{Code: 200}, nil
	case <-ctx.Done():
		return postrider.Response{}, ctx.Err()
	}
}

// counts returns how many deliveries were sent, and how often the one that was sent most.
func (c *counter) counts() (deliveries, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sent), slices.Max(append(slices.Collect(maps.Values(c.sent)), 0))
}

// dispatching returns a dispatcher with a webhook for all events.
func dispatching(t *testing.T, store postrider.Store, sender postrider.Sender) *postrider.Dispatcher {
	t.Helper()
	d, err := postrider.New(store, postrider.Config{Sender: sender, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	_, err = d.EnsureWebhook(t.Context(), postrider.Webhook{Name: "all", URL: "https://example.com/", Events: []string{"*"}})
	require.NoError(t, err)
	return d
}

func emitOne(t *testing.T, d *postrider.Dispatcher, id string) error {
	t.Helper()
	_, err := d.Emit(t.Context(), postrider.Event{ID: id, Type: "a", Payload: []byte("1")})
	return err
}

// statsOf returns the counts, without OldestDue, which depends on the clock.
func statsOf(t *testing.T, s postrider.Store) postrider.Stats {
	t.Helper()
	stats, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	stats.OldestDue = time.Time{}
	return stats
}
