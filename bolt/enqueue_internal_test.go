package bolt

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/spread"
)

// many is more items than one part: their values are made while apply begins.
const many = 5*spread.Part + 3

func manyItems(prefix string) []postrider.Item {
	items := make([]postrider.Item, many)
	for i := range items {
		id := fmt.Sprintf("%s%04d", prefix, i)
		items[i].Event = postrider.Event{ID: id, Type: "a", Payload: []byte(`"` + id + `"`)}
	}
	return items
}

func openFor(t *testing.T, webhooks ...string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Check())
		require.NoError(t, s.Close())
	})
	for _, id := range webhooks {
		addWebhook(t, s, id)
	}
	return s
}

func addWebhook(t *testing.T, s *Store, id string) {
	t.Helper()
	require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: id, Name: id, URL: "http://x.example", Events: []string{"*"}}))
}

// payloads returns those of all that is due, by event and webhook.
func payloads(t *testing.T, s *Store) map[string]string {
	t.Helper()
	claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 100 * many, Lease: time.Minute})
	require.NoError(t, err)
	found := map[string]string{}
	for _, c := range claims {
		found[c.Event.ID+" "+c.Webhook.ID] = string(c.Event.Payload)
	}
	require.Len(t, found, len(claims))
	return found
}

// A call of few items starts nothing, and has its values at once.
func TestFewItemsAreEncodedAtOnce(t *testing.T) {
	t.Parallel()
	s := openFor(t, "w")
	p := s.newPost(manyItems("a")[:spread.Part])
	for i := range p.letters {
		require.NotEmpty(t, p.letters[i].value)
	}
}

// A panic while values are made is the caller's, and nothing is stored.
func TestAPanicWhileEncodingIsTheCallers(t *testing.T) {
	t.Parallel()
	s := openFor(t, "w")
	p := s.newPost(manyItems("a"))
	p.encoded()
	p.encoded = spread.Start(many, func(from, _ int) {
		if from == 2*spread.Part {
			panic("no")
		}
	})
	require.PanicsWithValue(t, "no", func() { _, _ = p.send(t.Context()) })
	require.Empty(t, payloads(t, s))
	_, err := s.Enqueue(t.Context(), manyItems("a"))
	require.NoError(t, err)
	require.Len(t, payloads(t, s), many)
}

// Whoever gives up before its group has run gets its items back: nothing reads them any more.
func TestItemsAreTheCallersOnceItsContextEnds(t *testing.T) {
	t.Parallel()
	s := openFor(t, "w")
	queued := func(n int) func() bool {
		return func() bool {
			s.commits.mu.Lock()
			defer s.commits.mu.Unlock()
			return len(s.commits.queue) == n
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	items := manyItems("a")
	p := s.newPost(items)
	var waited atomic.Bool
	encoded := p.encoded
	p.encoded = func() {
		encoded()
		waited.Store(true)
	}
	hold, running := make(chan struct{}), make(chan struct{})
	others, gone := make(chan error, 2), make(chan error, 1)
	go func() {
		others <- s.submit(t.Context(), &op{apply: func(*group) error {
			go func() {
				others <- s.submit(t.Context(), &op{apply: func(*group) error {
					close(running)
					<-hold
					return nil
				}})
			}()
			for !queued(1)() {
				time.Sleep(time.Millisecond)
			}
			go func() {
				_, err := p.send(ctx)
				gone <- err
			}()
			for !queued(2)() {
				time.Sleep(time.Millisecond)
			}
			return nil
		}})
	}()
	<-running
	require.False(t, waited.Load())
	cancel() // its group runs, but it has not come to it
	require.ErrorIs(t, <-gone, context.Canceled)
	require.True(t, waited.Load())
	for i := range items {
		copy(items[i].Event.Payload, strings.Repeat("x", len(items[i].Event.Payload)))
	}
	close(hold)
	require.NoError(t, <-others)
	require.NoError(t, <-others)
	found := payloads(t, s)
	require.Len(t, found, many)
	for key, payload := range found {
		require.Equal(t, `"`+strings.TrimSuffix(key, " w")+`"`, payload)
	}
}

// What is stored is what the webhooks want when apply runs, whatever was matched before.
func TestWebhooksThatComeAndGoWhileEncoding(t *testing.T) {
	t.Parallel()
	s := openFor(t, "a", "b")
	_, err := s.Enqueue(t.Context(), manyItems("old"))
	require.NoError(t, err)
	require.Len(t, payloads(t, s), 2*many)

	more := s.newPost(manyItems("more"))
	addWebhook(t, s, "c")
	receipts, err := more.send(t.Context())
	require.NoError(t, err)
	require.Len(t, receipts, many)
	require.Len(t, receipts[many-1].Deliveries, 3)
	found := payloads(t, s)
	require.Len(t, found, 3*many)
	require.Equal(t, `"more0000"`, found["more0000 c"])

	fewer := s.newPost(manyItems("fewer"))
	require.NoError(t, s.DeleteWebhook(t.Context(), "b"))
	receipts, err = fewer.send(t.Context())
	require.NoError(t, err)
	require.Len(t, receipts[0].Deliveries, 2)
	found = payloads(t, s)
	require.Len(t, found, 2*many)
	require.Equal(t, `"fewer0070"`, found["fewer0070 c"])
}

// Items of every kind may be in one call.
func TestManyItemsOfEveryKind(t *testing.T) {
	t.Parallel()
	s := openFor(t, "a", "b")
	before, err := s.Enqueue(t.Context(), manyItems("old"))
	require.NoError(t, err)
	require.Len(t, payloads(t, s), 2*many)
	items := manyItems("new")
	want := 0
	for i := range items {
		switch it := &items[i]; i % 5 {
		case 0:
			want += 2
		case 1:
			it.To = []string{"b"}
			it.Test = true
			want++
		case 2:
			it.Event.OrderKey = fmt.Sprint("key", i)
			it.Event.Metadata = map[string]string{"long": strings.Repeat("m", 300)}
			want += 2
		case 3:
			*it = postrider.Item{Event: postrider.Event{ID: before[i].EventID}, ReplayOf: before[i].Deliveries[0], To: []string{"a"}}
			want++
		case 4:
			it.Event.ID = before[i].EventID // a duplicate
		}
	}
	receipts, err := s.Enqueue(t.Context(), items)
	require.NoError(t, err)
	for i := range receipts {
		require.Equal(t, i%5 == 4, receipts[i].Duplicate)
	}
	found := payloads(t, s)
	require.Len(t, found, want)
	for key, payload := range found {
		id, _, _ := strings.Cut(key, " ")
		require.Equal(t, `"`+id+`"`, payload)
	}
}
