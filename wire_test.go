package postrider_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// wire is a receiver that keeps every byte it gets, and answers 200 after each request with a body of 2 bytes.
type wire struct {
	pipes
	mu  sync.Mutex // guards got
	got bytes.Buffer
}

func newWire() *wire {
	w := &wire{}
	w.serve = func(c net.Conn) {
		in := bufio.NewReader(io.TeeReader(c, w))
		for {
			for line := "-"; line != "\r\n"; {
				var err error
				if line, err = in.ReadString('\n'); err != nil {
					return
				}
			}
			if _, err := io.CopyN(io.Discard, in, 2); err != nil {
				return
			}
			_, _ = io.WriteString(c, plain)
		}
	}
	return w
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.Write(b)
}

// sent sends an event to a webhook with these headers, which is put into the store past all checks, and returns what
// went over the wire.
func sent(t *testing.T, h http.Header) (string, postrider.Attempt) {
	t.Helper()
	w := newWire()
	store := memstore.New(memstore.Options{})
	d, err := postrider.New(store, postrider.Config{Logger: quiet()})
	require.NoError(t, err)
	d.Own().DialBy(w.dial)
	hook := validWebhook()
	hook.URL, hook.Header, hook.Version = "http://a.example/in?x=y", h, 1
	require.NoError(t, store.CreateWebhook(t.Context(), hook))
	_, err = d.Emit(t.Context(), postrider.Event{ID: "e", Type: "x", Payload: []byte(`{}`)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	synctest.Wait()
	cancel()
	require.NoError(t, <-ended)
	w.work.Wait()
	page, err := d.Attempts(t.Context(), postrider.AttemptQuery{})
	require.NoError(t, err)
	require.Len(t, page.Items, 1, "counted")
	return w.got.String(), page.Items[0]
}

func TestRequestToTheByte(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got, a := sent(t, http.Header{"x-one": {"1"}, "X-Two": {"a", "b c\t\xfc"}, "Authorization": {"Bearer x"}, "User-Agent": {"mine"}})
		require.False(t, a.Failed)
		head, body, ok := strings.Cut(got, "\r\n\r\n")
		require.True(t, ok)
		require.Equal(t, "{}", body)
		lines := strings.Split(head, "\r\n")
		slices.Sort(lines[1:])
		var signed string
		for i, line := range lines {
			if text, ok := strings.CutPrefix(line, "Webhook-Signature: v1,"); ok {
				signed, lines[i] = text, "Webhook-Signature: v1,"
			}
		}
		require.Len(t, signed, 44)
		require.Equal(t, []string{
			"POST /in?x=y HTTP/1.1", "Authorization: Bearer x", "Content-Length: 2", "Content-Type: application/json", "Host: a.example",
			"User-Agent: mine", "Webhook-Id: e", "Webhook-Signature: v1,", "Webhook-Timestamp: 946684800", "X-One: 1", "X-Two: a", "X-Two: b c\t\xfc",
		}, lines)
	})
}

func TestRefusedHeadersNeverReachTheWire(t *testing.T) {
	t.Parallel()
	for _, h := range []http.Header{
		{"Host": {"evil"}}, {"host": {"evil"}}, {"Content-Length": {"0"}}, {"content-length": {"evil"}}, {"Transfer-Encoding": {"chunked"}},
		{"Content-Type": {"evil"}}, {"Content-Encoding": {"gzip"}}, {"Trailer": {"X"}}, {"Te": {"trailers"}}, {"Connection": {"close"}},
		{"Keep-Alive": {"1"}}, {"Upgrade": {"h2c"}}, {"Expect": {"100-continue"}}, {"Cookie": {"a=b"}}, {"Webhook-Id": {"evil"}},
		{"webhook-signature": {"v1,evil"}}, {"Webhook-Anything": {"evil"}}, {"Proxy-Authorization": {"evil"}}, {"X-Forwarded-For": {"127.0.0.1"}},
		{"Forwarded": {"for=127.0.0.1"}}, {"X-Real-Ip": {"127.0.0.1"}}, {"Sec-Fetch-Site": {"none"}}, {"Idempotency-Key": {"evil"}},
		{"X-Idempotency-Key": {"evil"}}, {"Accept-Encoding": {"gzip"}}, {"Via": {"evil"}}, {"Date": {"evil"}},
		{"": {"evil"}}, {"X A": {"evil"}}, {"X:": {"evil"}}, {"X\r\nHost": {"evil"}}, {"X\x00": {"evil"}}, {"Ü": {"evil"}}, {" Host": {"evil"}},
		{"X": {"a\r\nHost: evil"}}, {"X": {"a\nevil"}}, {"X": {"a\revil"}}, {"X": {"\x00evil"}}, {"X": {" evil"}}, {"X": {"evil\t"}}, {"X": {"evil\x7f"}},
		{"X": {strings.Repeat("x", 4<<10+1)}}, {"X": slices.Repeat([]string{"y"}, 33)}, {"X": slices.Repeat([]string{strings.Repeat("x", 4<<10)}, 4)},
		{"X-A": {"1"}, "x-a": {"2"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			hook := validWebhook()
			hook.Header = h
			require.ErrorIs(t, hook.Validate(), postrider.ErrInvalid, "%q", h)
			got, a := sent(t, h)
			require.Empty(t, got, "%q", h)
			require.Equal(t, postrider.ClassProtocol, a.Class)
		})
	}
}

// FuzzHeadersOnTheWire sends with any two headers. What may be stored arrives just so, beside what the dispatcher sets,
// and what may not sends nothing.
func FuzzHeadersOnTheWire(f *testing.F) {
	f.Add("X-One", "1", "x-two", "b c")
	f.Add("Host", "evil", "X", "a\r\nHost: evil")
	f.Add("User-Agent", "mine", "authorization", "Bearer \xff")
	f.Add("X", "", "x", "")
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		synctest.Test(t, func(t *testing.T) {
			h := http.Header{name1: {value1}}
			h[name2] = append(h[name2], value2)
			hook := validWebhook()
			hook.Header = h
			got, a := sent(t, h)
			if hook.Validate() != nil {
				require.Empty(t, got)
				require.Equal(t, postrider.ClassProtocol, a.Class)
				return
			}
			require.False(t, a.Failed, "%s", a.Error)
			want := map[string][]string{
				"Host": {"a.example"}, "Content-Length": {"2"}, "Content-Type": {"application/json"}, "User-Agent": {"Postrider/1"},
				"Webhook-Id": {"e"}, "Webhook-Timestamp": {"946684800"}, "Webhook-Signature": nil,
			}
			for name, values := range h {
				want[textproto.CanonicalMIMEHeaderKey(name)] = values
			}
			head, body, _ := strings.Cut(got, "\r\n\r\n")
			require.Equal(t, "{}", body)
			lines := strings.Split(head, "\r\n")
			require.Equal(t, "POST /in?x=y HTTP/1.1", lines[0])
			seen := map[string][]string{}
			for _, line := range lines[1:] {
				name, value, ok := strings.Cut(line, ": ")
				require.True(t, ok, "%q", line)
				require.NotContains(t, line, "\n")
				seen[name] = append(seen[name], value)
			}
			require.Len(t, seen["Webhook-Signature"], 1)
			seen["Webhook-Signature"] = nil
			require.Equal(t, want, seen)
		})
	})
}
