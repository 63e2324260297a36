package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// contents returns everything in a file, bucket by bucket.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	all := map[string]string{}
	var walk func(name string, b *bbolt.Bucket) error
	walk = func(name string, b *bbolt.Bucket) error {
		all[name] = fmt.Sprint(b.Sequence())
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return walk(name+"/"+string(k), b.Bucket(k))
			}
			all[name+"/"+string(k)] = string(v)
			return nil
		})
	}
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error { return walk(string(name), b) })
	}))
	return all
}

// reads is what every read of a store says.
type reads struct {
	Webhooks   []postrider.Webhook
	Deliveries []postrider.Delivery
	Attempts   []postrider.Attempt
	Events     []postrider.Event
	Stats      postrider.Stats
}

func readsOf(t *testing.T, store postrider.Store) (r reads) {
	t.Helper()
	var err error
	pages(t, func(cursor string) string {
		page, err := store.Webhooks(t.Context(), postrider.WebhookQuery{Cursor: cursor})
		require.NoError(t, err)
		r.Webhooks = append(r.Webhooks, page.Items...)
		return page.Next
	})
	pages(t, func(cursor string) string {
		page, err := store.Deliveries(t.Context(), postrider.DeliveryQuery{Cursor: cursor})
		require.NoError(t, err)
		r.Deliveries = append(r.Deliveries, page.Items...)
		return page.Next
	})
	pages(t, func(cursor string) string {
		page, err := store.Attempts(t.Context(), postrider.AttemptQuery{Cursor: cursor})
		require.NoError(t, err)
		r.Attempts = append(r.Attempts, page.Items...)
		return page.Next
	})
	for _, d := range r.Deliveries {
		e, err := store.Event(t.Context(), d.Project, d.EventID)
		require.NoError(t, err)
		r.Events = append(r.Events, e)
	}
	r.Stats, err = store.Stats(t.Context(), postrider.StatsQuery{Rates: true})
	require.NoError(t, err)
	return r
}

// pages goes through all pages.
func pages(t *testing.T, next func(cursor string) string) {
	t.Helper()
	for cursor := next(""); cursor != ""; cursor = next(cursor) {
	}
}

// agedNow is later than all that aged does.
var agedNow = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func openAged(t *testing.T, path string) *bolt.Store {
	t.Helper()
	store, err := bolt.Open(path, bolt.Options{Now: func() time.Time { return agedNow }})
	require.NoError(t, err)
	return store
}

func TestCompactKeepsEverything(t *testing.T) {
	t.Parallel()
	from := aged(t, 11)
	store := openAged(t, from)
	for more := true; more; { // so that there is something to gain
		var err error
		_, more, err = store.Prune(t.Context(), 23*time.Hour+30*time.Minute, 1000)
		require.NoError(t, err)
	}
	want := readsOf(t, store)
	require.NoError(t, store.Close())
	db, err := bbolt.Open(from, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { // another's buckets
		b, err := tx.CreateBucket([]byte("mine"))
		for depth := 0; depth < 3 && err == nil; depth++ {
			for i := range 200 {
				if err := b.Put(fmt.Appendf(nil, "%d", i), bytes.Repeat([]byte("v"), i)); err != nil {
					return err
				}
			}
			if err := b.SetSequence(uint64(7 + depth)); err != nil {
				return err
			}
			if _, err := b.CreateBucket([]byte("empty")); err != nil {
				return err
			}
			b, err = b.CreateBucket([]byte("deeper"))
		}
		return err
	}))
	require.NoError(t, db.Close())
	before, err := os.ReadFile(from)
	require.NoError(t, err)

	folder := t.TempDir()
	to := filepath.Join(folder, "compact.db")
	require.NoError(t, bolt.Compact(t.Context(), from, to))
	require.Equal(t, []string{"compact.db"}, namesIn(t, folder))
	if runtime.GOOS != "windows" {
		info, err := os.Stat(to)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	}
	after, err := os.ReadFile(from)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the file that is read stays as it is")
	checkFile(t, to)
	require.Equal(t, contents(t, from), contents(t, to))
	require.True(t, bolt.HasFreelist(to), "the next Open is short")
	info, err := os.Stat(to)
	require.NoError(t, err)
	require.Equal(t, bolt.InUse(to), info.Size(), "nothing is set aside")
	require.Less(t, info.Size(), bolt.InUse(from)*9/10)

	store = openAged(t, to)
	require.Equal(t, want, readsOf(t, store))
	require.NoError(t, store.Check())
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 50 { // and it works on
		_, err := store.Enqueue(t.Context(), []postrider.Item{{Event: postrider.Event{ID: fmt.Sprintf("later-%d", i), Type: "a", Payload: []byte("1")}}})
		require.NoError(t, err)
		endSome(t, store, random, 500)
	}
	_, _, err = store.Prune(t.Context(), 0, 1000)
	require.NoError(t, err)
	require.NoError(t, store.Check())
	require.NoError(t, store.Close())
	checkFile(t, to)
}

func TestCompactReadsAFileThatWasNotClosed(t *testing.T) {
	t.Parallel()
	from, to := aged(t, 12), filepath.Join(t.TempDir(), "compact.db")
	require.False(t, bolt.HasFreelist(from))
	require.NoError(t, bolt.Compact(t.Context(), from, to))
	require.False(t, bolt.HasFreelist(from), "nothing is written to it")
	require.Equal(t, contents(t, from), contents(t, to))
}

func TestCompactSpansTransactions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	require.NoError(t, store.CreateWebhook(t.Context(), webhookOf(0)))
	items := make([]postrider.Item, 50)
	for i := range items {
		items[i] = postrider.Item{Event: postrider.Event{ID: fmt.Sprintf("%03d", i), Type: "a", Payload: bytes.Repeat([]byte{byte(i)}, 1<<20), ContentType: "text/plain"}}
	}
	_, err = store.Enqueue(t.Context(), items)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	to := filepath.Join(t.TempDir(), "compact.db")
	require.NoError(t, bolt.Compact(t.Context(), path, to))
	checkFile(t, to)
	require.True(t, mapsEqual(contents(t, path), contents(t, to)))
}

func mapsEqual(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

func TestCompactRefuses(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	store, err := bolt.Open(at("store.db"), bolt.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	require.NoError(t, os.WriteFile(at("taken.db"), []byte("mine"), 0o600))
	require.NoError(t, os.WriteFile(at("text.db"), bytes.Repeat([]byte("not a database\n"), 10_000), 0o600))
	db, err := bbolt.Open(at("other.db"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	names := namesIn(t, folder)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx      context.Context
		from, to string
		is       error
		contains string
	}{
		{t.Context(), "store.db", "taken.db", fs.ErrExist, ""},
		{t.Context(), "store.db", "store.db", fs.ErrExist, ""},
		{t.Context(), "missing.db", "new.db", fs.ErrNotExist, ""},
		{t.Context(), "store.db", "missing/new.db", fs.ErrNotExist, ""},
		{t.Context(), "text.db", "new.db", nil, "invalid database"},
		{t.Context(), "other.db", "new.db", postrider.ErrStore, "there is no bucket"},
		{ended, "store.db", "new.db", context.Canceled, ""},
	} {
		err := bolt.Compact(c.ctx, at(c.from), at(c.to))
		require.ErrorContains(t, err, at(c.from), c.from)
		require.ErrorContains(t, err, c.contains, c.from)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, c.from)
		}
		require.Equal(t, names, namesIn(t, folder), c.from)
	}
	b, err := os.ReadFile(at("taken.db"))
	require.NoError(t, err)
	require.Equal(t, "mine", string(b))

	store, err = bolt.Open(at("store.db"), bolt.Options{})
	require.NoError(t, err)
	require.ErrorContains(t, bolt.Compact(t.Context(), at("store.db"), at("new.db")), "the file is in use by another process")
	require.Equal(t, names, namesIn(t, folder))
	require.NoError(t, store.Close())
	require.NoError(t, bolt.Compact(t.Context(), at("store.db"), at("new.db")))
}

// TestCompactThatIsCanceledLeavesNothing ends the context in the middle.
func TestCompactThatIsCanceledLeavesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	require.NoError(t, store.CreateWebhook(t.Context(), webhookOf(0)))
	items := make([]postrider.Item, 40)
	for i := range items {
		items[i] = postrider.Item{Event: postrider.Event{ID: fmt.Sprint(i), Type: "a", Payload: make([]byte, 1<<20), ContentType: "text/plain"}}
	}
	_, err = store.Enqueue(t.Context(), items)
	require.NoError(t, err)
	require.NoError(t, store.Close())
	folder := t.TempDir()
	ctx := &counting{Context: t.Context(), left: 2}
	require.ErrorIs(t, bolt.Compact(ctx, path, filepath.Join(folder, "new.db")), context.Canceled)
	require.Less(t, ctx.left, 0)
	require.Empty(t, namesIn(t, folder))
}

// counting is a context that ends once it was looked at so often.
type counting struct {
	context.Context
	left int
}

func (c *counting) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestBackupIsOfOneMoment(t *testing.T) {
	t.Parallel()
	from := aged(t, 13)
	store := openAged(t, from)
	var writers sync.WaitGroup
	stop := make(chan struct{})
	writers.Go(func() {
		random := rand.New(rand.NewPCG(2, 2))
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_, err := store.Enqueue(t.Context(), []postrider.Item{{Event: postrider.Event{ID: fmt.Sprintf("later-%d", i), Type: "a", Payload: []byte("1")}}})
			if err != nil {
				panic(err)
			}
			endSome(t, store, random, 20)
		}
	})
	for i := range 3 {
		path := filepath.Join(t.TempDir(), "backup.db")
		f, err := os.Create(path)
		require.NoError(t, err)
		before := statsOf(t, store)
		n, err := store.Backup(t.Context(), f)
		require.NoError(t, err)
		after := statsOf(t, store)
		require.NoError(t, f.Close())
		require.Equal(t, bolt.InUse(path), n)

		backup := openAged(t, path)
		require.NoError(t, backup.Check(), "backup %d", i)
		got := statsOf(t, backup)
		require.GreaterOrEqual(t, got.Total(), before.Total())
		require.LessOrEqual(t, got.Total(), after.Total())
		require.GreaterOrEqual(t, got.Delivered, before.Delivered)
		require.LessOrEqual(t, got.Delivered, after.Delivered)
		require.NoError(t, backup.Close())
		checkFile(t, path)
	}
	close(stop)
	writers.Wait()
	require.NoError(t, store.Check())
	require.NoError(t, store.Close())
}

func TestBackupStopsWhereItsWriterOrContextDoes(t *testing.T) {
	t.Parallel()
	store := openAged(t, aged(t, 14))
	full := errors.New("full")
	_, err := store.Backup(t.Context(), writerFunc(func([]byte) (int, error) { return 0, full }))
	require.ErrorContains(t, err, full.Error())
	ctx, cancel := context.WithCancel(t.Context())
	written := 0
	_, err = store.Backup(ctx, writerFunc(func(b []byte) (int, error) {
		if written += len(b); written > 100_000 {
			cancel()
		}
		return len(b), nil
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, written, 300_000)
	require.NoError(t, store.Close())
	_, err = store.Backup(t.Context(), &strings.Builder{})
	require.ErrorIs(t, err, postrider.ErrClosed)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
