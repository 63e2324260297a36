// Package interop_test checks Postrider against software that others wrote.
package interop_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestFeedDeliversEveryLineAcrossKills runs examples/feed as a process of its own and kills it twice in the middle. The
// receiver refuses every third request, and verifies each with the official Go library of Standard Webhooks.
//
// POSTRIDER_FEED_FILE names another file of JSON lines {"type","payload"}, in this order and without spaces.
func TestFeedDeliversEveryLineAcrossKills(t *testing.T) {
	t.Parallel()
	file := os.Getenv("POSTRIDER_FEED_FILE")
	if file == "" {
		file = filepath.Join("testdata", "events.jsonl")
	}
	payloads := readPayloads(t, file)
	feed := buildFeed(t)
	verifier, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	r := &receiver{
		verifier: verifier,
		haltAt:   []int{len(payloads) / 3, len(payloads) * 2 / 3},
		halted:   make(chan struct{}, 1),
		bodies:   map[string]string{},
		accepted: map[string]int{},
	}
	kills := len(r.haltAt)
	server := httptest.NewServer(r)
	defer server.Close()

	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	store := filepath.Join(t.TempDir(), "feed.db")
	run := func() (*exec.Cmd, *bytes.Buffer) {
		out := &bytes.Buffer{}
		cmd := exec.CommandContext(ctx, feed, "-store", store, "-url", server.URL, "-file", file,
			"-inflight", "16", "-retry", strings.Repeat("50ms,", 50)+"50ms")
		cmd.Env = append(os.Environ(), "FEED_SECRET="+secret)
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		return cmd, out
	}
	for range kills {
		cmd, out := run()
		select {
		case <-r.halted:
		case <-ctx.Done():
		}
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait(), "it was to be killed in the middle: %s", out)
		require.NoError(t, ctx.Err(), "%s", out)
		require.Eventually(t, r.resume, 10*time.Second, time.Millisecond)
	}
	cmd, out := run()
	require.NoError(t, cmd.Wait(), "%s", out)

	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(t, r.problems)
	require.Empty(t, r.haltAt)
	want, got := map[string]int{}, map[string]int{}
	for _, payload := range payloads {
		want[payload]++
	}
	again := 0
	for id, n := range r.accepted {
		got[r.bodies[id]]++
		again += n - 1
	}
	require.Len(t, r.accepted, len(payloads), "as many events as lines")
	require.True(t, equal(want, got), "every payload is to arrive byte for byte")
	require.LessOrEqual(t, r.peak, 16, "requests in flight at once")
	t.Logf("%d lines, %d requests: %d accepted, %d of them again, %d refused, %d cut off by the kills; at most %d at once; %v",
		len(payloads), r.requests, len(r.accepted)+again, again, r.refused, r.cut, r.peak, time.Since(start).Round(time.Millisecond))
	t.Logf("feed: %s", out)
}

// receiver verifies every request, keeps what came, and answers 500 to every third. Once it has accepted as many events
// as haltAt says it answers nobody, so that what sends to it can be killed in the middle of its work.
type receiver struct {
	verifier *standardwebhooks.Webhook
	halted   chan struct{}

	mu       sync.Mutex // guards what follows
	haltAt   []int
	halt     bool
	bodies   map[string]string // by webhook-id
	accepted map[string]int    // by webhook-id
	problems []string
	requests int
	refused  int
	cut      int
	now      int
	peak     int
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // killed while it sent
	}
	number, halt := r.take(req.Header, body)
	var soon <-chan time.Time
	if !halt {
		soon = time.After(2 * time.Millisecond) // so that requests meet
	}
	select {
	case <-soon:
	case <-req.Context().Done():
	}
	w.WriteHeader(r.answer(number, req.Header.Get("webhook-id"), req.Context().Err() != nil))
}

// take notes a request and returns which one it is, and whether it is to get no answer.
func (r *receiver) take(header http.Header, body []byte) (number int, halt bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	r.now++
	r.peak = max(r.peak, r.now)
	id := header.Get("webhook-id")
	if err := r.verifier.Verify(body, header); err != nil {
		r.problems = append(r.problems, id+": "+err.Error())
	}
	if old, ok := r.bodies[id]; ok && old != string(body) {
		r.problems = append(r.problems, id+": another body than before")
	}
	r.bodies[id] = string(body)
	return r.requests, r.halt
}

func (r *receiver) answer(number int, id string, gone bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now--
	if gone {
		r.cut++
		return http.StatusServiceUnavailable // nobody reads it
	}
	if number%3 == 0 {
		r.refused++
		return http.StatusInternalServerError
	}
	r.accepted[id]++
	if len(r.haltAt) > 0 && !r.halt && len(r.accepted) >= r.haltAt[0] {
		r.halt = true
		r.haltAt = r.haltAt[1:]
		r.halted <- struct{}{}
	}
	return http.StatusOK
}

// resume lets requests be answered again, once those of the killed process are gone: that it reports.
func (r *receiver) resume() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.halt = r.now > 0
	return !r.halt
}

// readPayloads cuts the payloads out of the lines without a JSON parser.
func readPayloads(t *testing.T, file string) (payloads []string) {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		_, payload, ok := strings.Cut(strings.TrimSpace(line), `,"payload":`)
		require.True(t, ok, "line %d", len(payloads)+1)
		payloads = append(payloads, strings.TrimSuffix(payload, "}"))
	}
	require.Greater(t, len(payloads), 9)
	return payloads
}

func buildFeed(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "feed")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./examples/feed")
	build.Dir = ".."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// equal compares without printing megabytes.
func equal(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return true
}
