package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// aged returns the path of a store's file after some calls, as a crash would leave it: not closed.
func aged(t *testing.T, seed uint64) string {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := bolt.Open(path, bolt.Options{Now: func() time.Time { return now }})
	require.NoError(t, err)
	for i := range 10 {
		require.NoError(t, store.CreateWebhook(t.Context(), webhookOf(i)))
	}
	for round := range 60 {
		now = now.Add(time.Minute)
		items := make([]postrider.Item, 1+random.IntN(60))
		for i := range items {
			size := random.IntN(2000)
			if random.IntN(30) == 0 {
				size = random.IntN(100_000) // pages of its own
			}
			items[i] = postrider.Item{Event: postrider.Event{
				ID: fmt.Sprintf("e-%d-%d", round, i), Type: "a", Payload: bytes.Repeat([]byte("x"), size), ContentType: "text/plain",
			}}
			if random.IntN(2) == 0 {
				items[i].To = []string{webhookOf(random.IntN(10)).ID}
			}
		}
		_, err := store.Enqueue(t.Context(), items)
		require.NoError(t, err)
		endSome(t, store, random, 300)
		if random.IntN(8) == 0 {
			_, _, err := store.Prune(t.Context(), time.Duration(random.IntN(30))*time.Minute, 1+random.IntN(1000))
			require.NoError(t, err)
		}
	}
	crashed := filepath.Join(t.TempDir(), "crashed.db")
	copyOf(t, path, crashed)
	require.NoError(t, os.Truncate(crashed, bolt.InUse(crashed))) // it grows in large steps
	require.NoError(t, store.Close())
	return crashed
}

func webhookOf(i int) postrider.Webhook {
	return postrider.Webhook{
		ID: fmt.Sprintf("w-%d", i), Name: fmt.Sprintf("n-%d", i), URL: "https://example.com/", Events: []string{"*"}, State: postrider.StateEnabled,
	}
}

// endSome claims deliveries and records outcomes of all kinds.
func endSome(t *testing.T, store postrider.Store, random *rand.Rand, most int) {
	t.Helper()
	claims, _, err := store.Claim(t.Context(), postrider.ClaimRequest{Max: 1 + random.IntN(most), Lease: time.Hour})
	require.NoError(t, err)
	outcomes := make([]postrider.Outcome, len(claims))
	for i, c := range claims {
		a := &postrider.Attempt{
			DeliveryID: c.Delivery.ID, WebhookID: c.Webhook.ID, Number: c.Delivery.Attempts + 1, Code: 200,
			StartedAt: c.Delivery.CreatedAt, FinishedAt: c.Delivery.CreatedAt.Add(time.Millisecond),
		}
		outcomes[i] = postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Attempt: a, Status: postrider.StatusDelivered}
		if random.IntN(4) == 0 {
			a.Failed, a.Code, a.Class, a.Body = true, 500, postrider.ClassStatus, bytes.Repeat([]byte("y"), random.IntN(16<<10))
			outcomes[i].Status, outcomes[i].RetryIn = postrider.StatusInProcess, time.Duration(random.IntN(600))*time.Second
			if random.IntN(2) == 0 {
				outcomes[i].Status, outcomes[i].RetryIn = postrider.StatusFailed, 0
			}
		}
	}
	_, err = store.Complete(t.Context(), outcomes)
	require.NoError(t, err)
}

func copyOf(t *testing.T, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	require.NoError(t, err)
	defer func() { require.NoError(t, source.Close()) }()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = io.Copy(target, source)
	require.NoError(t, err)
	require.NoError(t, target.Close())
}

// TestCrashedFileGetsTheListOfItsFreePages lets bbolt compare the list with all pages.
func TestCrashedFileGetsTheListOfItsFreePages(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		path := aged(t, seed)
		require.False(t, bolt.HasFreelist(path), "seed %d", seed)
		restored, err := bolt.RestoreFreelist(path)
		require.NoError(t, err)
		require.True(t, restored, "seed %d", seed)
		require.True(t, bolt.HasFreelist(path), "seed %d", seed)
		checkFile(t, path)

		store, err := bolt.Open(path, bolt.Options{})
		require.NoError(t, err)
		require.NoError(t, store.Check(), "seed %d", seed)
		require.NoError(t, store.Close())
		checkFile(t, path)
	}
}

// TestListOfFreePagesCanBeOfAnyLength has many free pages, among the caller's buckets in buckets.
func TestListOfFreePagesCanBeOfAnyLength(t *testing.T) {
	t.Parallel()
	for _, free := range []int{0, 1, 1000, 65_534, 65_535, 65_536, 70_000} {
		path := filepath.Join(t.TempDir(), "app.db")
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 512, NoFreelistSync: true, NoSync: true, NoGrowSync: true})
		require.NoError(t, err)
		name := []byte("postrider") // a tree that is more than one page, in a bucket in a bucket, named as one of ours
		update := func(f func(b *bbolt.Bucket) error) {
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists(name)
				if err != nil {
					return err
				}
				if b, err = b.CreateBucketIfNotExists([]byte("log")); err != nil {
					return err
				}
				return f(b)
			}))
		}
		update(func(b *bbolt.Bucket) error {
			for i := range 2000 {
				if err := b.Put(fmt.Appendf(nil, "key %06d", i), make([]byte, 40)); err != nil {
					return err
				}
			}
			return b.Put([]byte("large"), make([]byte, max(512*free-100, 0)))
		})
		update(func(b *bbolt.Bucket) error { return b.Delete([]byte("large")) })
		require.NoError(t, db.Close())
		restored, err := bolt.RestoreFreelist(path)
		require.NoError(t, err)
		require.True(t, restored, "%d free pages", free)
		checkFile(t, path)
	}
}

func TestBucketsOfOthersAreKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	require.NoError(t, err)
	_, err = bolt.New(db, bolt.Options{})
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("mine"))
		for depth := 0; depth < 5 && err == nil; depth++ {
			for i := range 500 {
				if err := b.Put(fmt.Appendf(nil, "%d", i), make([]byte, 100)); err != nil {
					return err
				}
			}
			if _, err := b.CreateBucket([]byte("inline")); err != nil {
				return err
			}
			b, err = b.CreateBucket([]byte("deeper"))
		}
		return err
	}))
	require.NoError(t, db.Close())
	restored, err := bolt.RestoreFreelist(path)
	require.NoError(t, err)
	require.True(t, restored)
	checkFile(t, path)
}

// TestDoubtLeavesTheFileAlone damages each kind of page.
func TestDoubtLeavesTheFileAlone(t *testing.T) {
	t.Parallel()
	path := aged(t, 99)
	sound, err := os.ReadFile(path)
	require.NoError(t, err)
	page := os.Getpagesize()
	kinds := map[byte]int{}
	doubted := 0
	for at := 2 * page; at+page <= len(sound); at += page {
		kind := sound[at+8]
		if kind != 1 && kind != 2 || kinds[kind] > 30 {
			continue
		}
		kinds[kind]++
		for _, offset := range []int{0, 8, 12, 17, 24} { // its number, kind, length, and its first element
			damaged := &memory{b: sound}
			damaged.b[at+offset] ^= 0x47
			restored, err := bolt.RestoreFreelistOf(damaged)
			damaged.b[at+offset] ^= 0x47
			require.NoError(t, err)
			if !restored {
				doubted++
				require.Empty(t, damaged.written)
			}
		}
	}
	require.Greater(t, doubted, 50)
	cut := &memory{b: sound[:len(sound)/8]}
	restored, err := bolt.RestoreFreelistOf(cut)
	require.NoError(t, err)
	require.False(t, restored)
	require.Empty(t, cut.written)
}

// memory is a file in memory that only notes where it is written to.
type memory struct {
	b       []byte
	written []int64
}

func (m *memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m.b).ReadAt(b, at) }
func (m *memory) Sync() error                            { return nil }

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	m.written = append(m.written, at)
	return len(b), nil
}

// TestRestoringCanBreakOff lets each write and sync fail in turn, with half of what was to be written.
func TestRestoringCanBreakOff(t *testing.T) {
	t.Parallel()
	path := aged(t, 7)
	for step := range 4 {
		broken := filepath.Join(t.TempDir(), "broken.db")
		copyOf(t, path, broken)
		f, err := os.OpenFile(broken, os.O_RDWR, 0)
		require.NoError(t, err)
		restored, err := bolt.RestoreFreelistOf(&failing{File: f, left: step})
		require.False(t, restored)
		if step > 0 {
			require.ErrorIs(t, err, errBroken, "only a list that cannot be written does not matter")
		}
		require.NoError(t, f.Close())

		store, err := bolt.Open(broken, bolt.Options{})
		require.NoError(t, err, "step %d", step)
		require.NoError(t, store.Check(), "step %d", step)
		require.NoError(t, store.Close())
		checkFile(t, broken)
	}
}

var errBroken = errors.New("broken")

// failing is a file that can be written to and synced so often.
type failing struct {
	*os.File
	left int
}

func (f *failing) WriteAt(b []byte, at int64) (int, error) {
	if f.left--; f.left < 0 {
		n, err := f.File.WriteAt(b[:40], at)
		return n, errors.Join(errBroken, err)
	}
	return f.File.WriteAt(b, at)
}

func (f *failing) Sync() error {
	if f.left--; f.left < 0 {
		return errBroken
	}
	return f.File.Sync()
}

func TestOpenAfterACrashIsLogged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	require.NoError(t, store.CreateWebhook(t.Context(), webhookOf(0)))
	items := make([]postrider.Item, 80)
	for i := range items {
		items[i] = postrider.Item{Event: postrider.Event{ID: fmt.Sprint(i), Type: "a", Payload: make([]byte, 1<<20), ContentType: "text/plain"}}
	}
	_, err = store.Enqueue(t.Context(), items)
	require.NoError(t, err)
	crashed := filepath.Join(t.TempDir(), "crashed.db")
	copyOf(t, path, crashed)
	require.NoError(t, store.Close())

	f, err := os.Open(crashed)
	require.NoError(t, err)
	var progress text
	_, err = bolt.RestoreFreelistOfLogging(&reading{f}, slog.New(slog.NewTextHandler(&progress, nil)))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	var percents []int
	for _, m := range regexp.MustCompile(`percent=(\d+)\n`).FindAllStringSubmatch(progress.String(), -1) {
		percent, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		percents = append(percents, percent)
	}
	require.Greater(t, len(percents), 50)
	require.True(t, slices.IsSorted(percents))
	require.Equal(t, 0, percents[0])
	require.Greater(t, percents[len(percents)-1], 90)

	for _, c := range []struct {
		path string
		want int
	}{{path, 0}, {crashed, 2}} {
		var lines text
		store, err := bolt.Open(c.path, bolt.Options{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
		require.NoError(t, err)
		require.Equal(t, int64(len(items)), statsOf(t, store).New)
		require.NoError(t, store.Close())
		require.Equal(t, c.want, strings.Count(lines.String(), "free pages"), lines.String())
		require.Equal(t, c.want, strings.Count(lines.String(), "file="+c.path), lines.String())
	}
}

// reading is a file that is not written to.
type reading struct{ *os.File }

func (reading) WriteAt([]byte, int64) (int, error) { return 0, errBroken }

// text is what was written to it.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(b)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
