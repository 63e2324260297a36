//go:build linux

package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

func init() { children["outgrow"] = outgrow }

// disk is a bbolt database whose file descriptor can be put onto something else, so that its writes really fail.
type disk struct {
	*bbolt.DB
	t    *testing.T
	fd   int // the database's
	keep int // another of the same file
}

// newDisk makes a database that has free pages, so that for a while it need not grow.
func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t}
	var err error
	d.DB, err = bbolt.Open(filepath.Join(t.TempDir(), "app.db"), 0o600, &bbolt.Options{
		Timeout: time.Second,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode)
			if err == nil {
				d.fd = int(f.Fd())
				d.keep, err = syscall.Dup(d.fd)
			}
			return f, err
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		d.mend()
		path := d.Path()
		require.NoError(t, d.Close())
		require.NoError(t, syscall.Close(d.keep))
		checkFile(t, path)
	})
	name := []byte("to be free pages")
	require.NoError(t, d.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket(name)
		if err != nil {
			return err
		}
		for i := range 2000 {
			if err := b.Put(fmt.Appendf(nil, "%04d", i), make([]byte, 2000)); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, d.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(name) }))
	return d
}

// fill makes every write fail with ENOSPC.
func (d *disk) fill() { d.become("/dev/full") }

// tear makes every sync fail, with EINVAL, and every write before it succeed.
func (d *disk) tear() { d.become("/dev/null") }

func (d *disk) become(name string) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(d.t, err)
	defer f.Close()
	require.NoError(d.t, syscall.Dup3(int(f.Fd()), d.fd, syscall.O_CLOEXEC))
}

// mend gives the database its file back.
func (d *disk) mend() { require.NoError(d.t, syscall.Dup3(d.keep, d.fd, syscall.O_CLOEXEC)) }

func TestFullDiskIsProbedOnceASecond(t *testing.T) {
	t.Parallel()
	db := newDisk(t)
	synctest.Test(t, func(t *testing.T) {
		store, err := bolt.New(db.DB, bolt.Options{})
		require.NoError(t, err)
		d := dispatching(t, store, &counter{})
		require.NoError(t, emitOne(t, d, "before"))

		db.fill()
		probes := 0
		for i := range 100 { // 10 s
			err := emitOne(t, d, fmt.Sprint("refused-", i))
			require.ErrorIs(t, err, postrider.ErrFull)
			if errors.Is(err, syscall.ENOSPC) {
				probes++
			}
			_, err = d.Event(t.Context(), "", "before")
			require.NoError(t, err, "reading while the disk is full")
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 10, probes, "commits that were tried in 10 s")

		require.ErrorIs(t, emitOne(t, d, "refused"), syscall.ENOSPC)
		db.mend()
		time.Sleep(time.Second - 1)
		require.ErrorIs(t, emitOne(t, d, "refused"), postrider.ErrFull)
		time.Sleep(time.Nanosecond)
		require.NoError(t, emitOne(t, d, "after"), "there has been room for a second")
		require.NoError(t, emitOne(t, d, "after-2"))
		require.Equal(t, postrider.Stats{New: 3, Due: 3}, statsOf(t, store), "nothing of a refused event is stored")
		for i := range 100 {
			_, err := d.Event(t.Context(), "", fmt.Sprint("refused-", i))
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
		require.NoError(t, store.Close())
	})
}

func TestFullDiskIsNoStorm(t *testing.T) {
	t.Parallel()
	db := newDisk(t)
	synctest.Test(t, func(t *testing.T) {
		store, err := bolt.New(db.DB, bolt.Options{})
		require.NoError(t, err)
		sender := &counter{}
		d := dispatching(t, store, sender)
		const n = 500
		for i := range n {
			require.NoError(t, emitOne(t, d, fmt.Sprint("event-", i)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- d.Run(ctx) }()
		time.Sleep(100 * time.Millisecond) // about 80 have been delivered
		db.fill()
		time.Sleep(time.Second)
		before, _ := sender.counts()
		require.Less(t, before, n)

		time.Sleep(10 * time.Minute)
		during, most := sender.counts()
		require.Equal(t, before, during, "more was sent although outcomes could not be recorded")
		require.LessOrEqual(t, most, 2)
		require.Positive(t, statsOf(t, store).Delivered)

		db.mend()
		time.Sleep(5 * time.Second)
		require.Equal(t, int64(n), statsOf(t, store).Delivered, "5 s after there was room again")
		sent, most := sender.counts()
		require.Equal(t, n, sent)
		require.LessOrEqual(t, most, 2)
		cancel()
		require.NoError(t, <-ran)
		require.NoError(t, store.Close())
	})
}

func TestFailedSyncStopsWritingForGood(t *testing.T) {
	t.Parallel()
	db := newDisk(t)
	store, err := bolt.New(db.DB, bolt.Options{})
	require.NoError(t, err)
	d := dispatching(t, store, &counter{})
	require.NoError(t, emitOne(t, d, "before"))
	claims, _, err := store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Minute})
	require.NoError(t, err)
	require.Len(t, claims, 1)

	db.tear()
	err = emitOne(t, d, "during")
	require.ErrorIs(t, err, postrider.ErrStore)
	require.NotErrorIs(t, err, postrider.ErrFull)
	db.mend()
	for range 3 {
		require.ErrorIs(t, emitOne(t, d, "after"), postrider.ErrStore)
		_, err = store.Complete(t.Context(), []postrider.Outcome{{
			DeliveryID: claims[0].Delivery.ID, Token: claims[0].Token, Status: postrider.StatusDelivered,
			Attempt: &postrider.Attempt{DeliveryID: claims[0].Delivery.ID, WebhookID: claims[0].Webhook.ID, Number: 1, Code: 200, StartedAt: time.Now(), FinishedAt: time.Now()},
		}})
		require.ErrorIs(t, err, postrider.ErrStore)
		_, _, err = store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Minute})
		require.ErrorIs(t, err, postrider.ErrStore, "what cannot be recorded must not be sent")
	}
	_, err = d.Event(t.Context(), "", "before")
	require.NoError(t, err, "reading goes on")
	require.NoError(t, store.Close())

	store, err = bolt.New(db.DB, bolt.Options{})
	require.NoError(t, err)
	d = dispatching(t, store, &counter{})
	require.NoError(t, emitOne(t, d, "after"))
	require.Equal(t, postrider.Stats{New: 2, Due: 2}, statsOf(t, store))
	require.NoError(t, store.Close())
}

// TestFileThatCannotGrowIsFull needs a process of its own, since a limit on the size of files holds for all of it.
func TestFileThatCannotGrowIsFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	c := startChild(t, "outgrow", path)
	var out strings.Builder
	for line, ok := c.line(); ok; line, ok = c.line() {
		out.WriteString(line + "\n")
	}
	require.NoError(t, c.Wait(), "%s%s", &out, &c.stderr)
	checkFile(t, path)
}

// outgrow emits until the file may not grow any more, and goes on when it may.
func outgrow(t *testing.T, path string) {
	signal.Ignore(syscall.SIGXFSZ) // so that what is too large is an error
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(t, err)
	sender := &counter{}
	d := dispatching(t, store, sender)

	limit := func(size uint64) {
		var l syscall.Rlimit
		require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l))
		l.Cur = min(size, l.Max)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l))
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	limit(uint64(info.Size()))

	payload := []byte(`"` + strings.Repeat("x", 20_000) + `"`)
	stored := 0
	emit := func() error {
		_, err := d.Emit(t.Context(), postrider.Event{ID: fmt.Sprint("event-", stored), Type: "a", Payload: payload})
		if err == nil {
			stored++
		}
		return err
	}
	for err = emit(); err == nil; err = emit() {
	}
	require.ErrorContains(t, err, "file resize error", "bbolt says it in another way: see classify")
	require.ErrorIs(t, err, postrider.ErrFull)
	require.ErrorIs(t, emit(), postrider.ErrFull)
	require.Equal(t, int64(stored), statsOf(t, store).New)

	limit(1 << 40)
	require.Eventually(t, func() bool { return emit() == nil }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, emit())
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	require.Eventually(t, func() bool { return statsOf(t, store).Delivered == int64(stored) }, 10*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-ran)
	require.NoError(t, store.Close())
}
