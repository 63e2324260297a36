package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain makes the test's own binary the app, for tests that need a process to send a signal to.
func TestMain(m *testing.M) {
	if os.Getenv("HTTP_APP_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// startApp runs the app on a new file and returns the address it listens on.
func startApp(t *testing.T) string {
	out, w := io.Pipe()
	ctx, stop := context.WithCancel(context.Background()) // t's own ends before the cleanups
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-addr", "localhost:0", "-file", filepath.Join(t.TempDir(), "shop.db")}, w)
		_ = w.CloseWithError(io.EOF)
		ended <- err
	}()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	return listening(t, out)
}

// listening reads the address from the app's first line, and drops the others.
func listening(t *testing.T, out io.Reader) string {
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on http://")
	require.True(t, ok, line)
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return addr
}

func request(t *testing.T, method, url, token, body string) (status int, text string) {
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, strings.TrimSpace(string(b))
}

func TestWebhooksOfACustomer(t *testing.T) {
	t.Parallel()
	const ann, bob = "ann-token", "bob-token"
	base := "http://" + startApp(t)
	hooks := base + "/customers/ann/webhooks"
	const body = `{"name":"books","url":"https://example.com/a","events":["order.*"]}`
	for _, c := range []struct {
		method, url, token, body string
		status                   int
		want                     string // in the answer
	}{
		{"POST", hooks, "", body, 401, "who is it"},
		{"POST", hooks, "ann-tokem", body, 401, "who is it"},
		{"POST", hooks, bob, body, 404, "there is none"},
		{"POST", hooks, ann, `{"name":"a b","url":"ftp://x","events":[]}`, 400, "Webhook.Name"},
		{"POST", hooks, ann, `{"nam":"books"}`, 400, "unknown field"},
		{"POST", hooks, ann, `{"name":"a","secret":"x"}`, 400, "nothing else"},
		{"POST", hooks, ann, strings.Repeat(" ", maxBody+1), 400, "too large"},
		{"GET", hooks, ann, "", 200, "[]"},
		{"POST", hooks, ann, body, 201, `"secret":"whsec_`},
		{"POST", hooks, ann, body, 409, "in use"},
		{"GET", hooks, ann, "", 200, `"name":"books"`},
		{"GET", hooks, bob, "", 404, "there is none"},
		{"GET", hooks + "/books", ann, "", 200, `"state":"ENABLED"`},
		{"GET", base + "/customers/bob/webhooks/books", bob, "", 404, "there is none"},
		{"PUT", hooks + "/books", ann, `{"url":"https://example.com/b","events":["order.created"]}`, 200, `"url":"https://example.com/b","events":["order.created"]`},
		{"PUT", hooks + "/books", ann, `{"url":"b","events":["*"]}`, 400, "Webhook.URL"},
		{"PUT", hooks + "/books", ann, `{"name":"c","url":"https://example.com","events":["*"]}`, 400, "nothing else"},
		{"PUT", hooks + "/books", bob, `{"url":"https://example.com","events":["*"]}`, 404, "there is none"},
		{"POST", base + "/orders", "", `{"item":"tea","quantity":1}`, 401, "who is it"},
		{"POST", base + "/orders", ann, `{"item":"tea"}`, 400, "quantity"},
		{"POST", base + "/orders", bob, `{"item":"tea","quantity":1}`, 201, `"id":"1","customer":"bob"`},
		{"GET", base + "/api/events/v2/history/webhooks/books", ann, "", 200, "[]"}, // Bob's order is not for her
		{"GET", base + "/api/events/v2/history/webhooks/books", bob, "", 404, "not_found"},
		{"DELETE", hooks + "/books", bob, "", 404, "there is none"},
		{"DELETE", hooks + "/books", ann, "", 204, ""},
		{"DELETE", hooks + "/books", ann, "", 404, "there is none"},
		{"GET", hooks, ann, "", 200, "[]"},
	} {
		status, text := request(t, c.method, c.url, c.token, c.body)
		what := fmt.Sprintf("%s %s %s: %s", c.method, c.url, c.token, text)
		require.Equal(t, c.status, status, what)
		require.Contains(t, text, c.want, what)
		require.Equal(t, status == 201 && c.url == hooks, strings.Contains(text, "whsec_"), "a secret is shown once: %s", what)
	}
}

// A request that is in flight when the signal comes is answered and recorded before the process ends.
func TestSIGTERMStopsInTheRightOrder(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no SIGTERM")
	}
	arrived, release := make(chan struct{}, 9), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	defer receiver.Close()
	file := filepath.Join(t.TempDir(), "shop.db")

	base, app := startChild(t, file)
	status, text := request(t, "POST", base+"/customers/ann/webhooks", "ann-token", `{"name":"slow","url":"`+receiver.URL+`","events":["*"]}`)
	require.Equal(t, 201, status, text)
	status, text = request(t, "POST", base+"/orders", "ann-token", `{"item":"tea","quantity":1}`)
	require.Equal(t, 201, status, text)
	select {
	case <-arrived:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was sent")
	}
	require.NoError(t, app.Process.Signal(syscall.SIGTERM))
	time.Sleep(100 * time.Millisecond) // the signal comes first, as far as one can tell from outside
	close(release)
	require.NoError(t, app.Wait(), "exit status 0")

	base, app = startChild(t, file)
	status, text = request(t, "GET", base+"/api/events/v2/history/webhooks/slow", "ann-token", "")
	require.Equal(t, 200, status, text)
	var list []struct {
		Attempts int
		Status   string
	}
	require.NoError(t, json.Unmarshal([]byte(text), &list))
	require.Len(t, list, 1)
	require.Equal(t, "DELIVERED", list[0].Status)
	require.Equal(t, 1, list[0].Attempts)
	require.NoError(t, app.Process.Signal(syscall.SIGTERM))
	require.NoError(t, app.Wait())
	require.Empty(t, arrived, "it was sent once")
}

// startChild runs the app as a process of its own.
func startChild(t *testing.T, file string) (base string, app *exec.Cmd) {
	app = exec.CommandContext(t.Context(), os.Args[0], "-addr", "localhost:0", "-file", file)
	app.Env = append(os.Environ(), "HTTP_APP_CHILD=1")
	app.Stderr = os.Stderr
	out, err := app.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, app.Start())
	t.Cleanup(func() { _ = app.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return "http://" + strings.TrimPrefix(strings.TrimSpace(line), "listening on http://"), app
}

func TestWrongFlags(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-port", "1"}, &out), errUsage)
	require.Contains(t, out.String(), "-addr")
}
