package postrider_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/signature"
)

// loopback lets a dispatcher or a sender call the servers of the tests.
var loopback = postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}

// send makes one call of a new HTTPSender to a URL, within a second.
func send(t *testing.T, to string, body string) (postrider.Response, error) {
	t.Helper()
	s := &postrider.HTTPSender{Network: loopback}
	defer s.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return s.Send(ctx, request(t, to, body))
}

func request(t *testing.T, to, body string) postrider.Request {
	t.Helper()
	u, err := url.Parse(to)
	require.NoError(t, err)
	return postrider.Request{Method: "POST", URL: u, Header: http.Header{"X-One": {"1"}}, Body: []byte(body)}
}

// raw listens, and answers every connection with text once the request's headers were read; "" closes at once.
func raw(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
				}
				_, _ = io.WriteString(c, text)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

func classOf(t *testing.T, err error) postrider.Class {
	t.Helper()
	var e *postrider.SendError
	require.ErrorAs(t, err, &e)
	return e.Class
}

func TestHTTPSenderSendsWhatItIsGiven(t *testing.T) {
	t.Parallel()
	type got struct {
		method, path, host, body, length string
		header                           http.Header
	}
	seen := make(chan got, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen <- got{r.Method, r.URL.String(), r.Host, string(body), r.Header.Get("Content-Length"), r.Header}
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "thanks")
	}))
	defer server.Close()
	resp, err := send(t, server.URL+"/a/b?c=d", `{"x": 1}`)
	require.NoError(t, err)
	require.Equal(t, 202, resp.Code)
	require.Equal(t, "thanks", string(resp.Body))
	require.False(t, resp.Truncated)
	require.Equal(t, "yes", resp.Header.Get("X-Answer"))
	g := <-seen
	require.Equal(t, "POST", g.method)
	require.Equal(t, "/a/b?c=d", g.path)
	require.Equal(t, `{"x": 1}`, g.body)
	require.Equal(t, strings.TrimPrefix(server.URL, "http://"), g.host)
	require.Equal(t, "8", g.length)
	require.NotContains(t, g.header, "Accept-Encoding", "nothing that would have to be unpacked")
}

func TestHTTPSenderFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	resp, err := send(t, server.URL, `{}`)
	require.NoError(t, err)
	require.Equal(t, 307, resp.Code)
	require.EqualValues(t, 1, hits.Load())

	resp, err = send(t, raw(t, "HTTP/1.1 302 Found\r\nLocation: http://[::bad\r\nContent-Length: 0\r\n\r\n"), `{}`)
	require.NoError(t, err, "a bad Location is no matter")
	require.Equal(t, 302, resp.Code)
}

func TestHTTPSenderReusesConnectionsAfterSmallBodies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		size int
		conn int32
	}{{"no body", 0, 1}, {"small", 100, 1}, {"at the limit", postrider.MaxBody, 1}, {"too long", 10 * postrider.MaxBody, 5}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var conns atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write(make([]byte, c.size))
			}))
			server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					conns.Add(1)
				}
			}
			server.Start()
			defer server.Close()
			s := &postrider.HTTPSender{Network: loopback}
			defer s.CloseIdleConnections()
			for range 5 {
				resp, err := s.Send(t.Context(), request(t, server.URL, `{}`))
				require.NoError(t, err)
				require.Len(t, resp.Body, min(c.size, postrider.MaxBody))
				require.Equal(t, c.size > postrider.MaxBody, resp.Truncated)
			}
			require.Equal(t, c.conn, conns.Load())
		})
	}
}

func TestStatusDecidesAlsoWhenTheBodyBreaks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		code         int
		body         string
	}{
		{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab", 200, "ab"},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n", 200, "ab"},
		{"no length", "HTTP/1.1 500 No\r\n\r\nab", 500, "ab"},
		{"HTTP/1.0", "HTTP/1.0 204 OK\r\n\r\n", 204, ""},
		{"odd code", "HTTP/1.1 999 Huh\r\nContent-Length: 0\r\n\r\n", 999, ""},
		{"early hints before", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x"},
		{"compressed is not unpacked", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", 200, "ab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			resp, err := send(t, raw(t, c.answer), `{}`)
			require.NoError(t, err)
			require.Equal(t, c.code, resp.Code)
			require.Equal(t, c.body, string(resp.Body))
		})
	}
}

func TestEndlessBodyIsCutByTheDeadlineAndCounts(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	resp, err := send(t, server.URL, `{}`)
	require.NoError(t, err)
	require.Equal(t, 200, resp.Code)
	require.Equal(t, "first", string(resp.Body))
}

func TestClassesOfFailures(t *testing.T) {
	t.Parallel()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer silent.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())

	for _, c := range []struct {
		name, url string
		want      postrider.Class
	}{
		{"nobody listens", "http://" + closed.Addr().String(), postrider.ClassConnect},
		{"no such host", "http://nothing.invalid/", postrider.ClassDNS},
		{"unknown certificate", secure.URL, postrider.ClassTLS},
		{"old TLS", old.URL, postrider.ClassTLS},
		{"no TLS at all", "https://" + strings.TrimPrefix(silent.URL, "http://"), postrider.ClassTLS},
		{"no answer", silent.URL, postrider.ClassTimeout},
		{"closed at once", raw(t, ""), postrider.ClassReset},
		{"not HTTP", raw(t, "hello\r\n\r\n"), postrider.ClassProtocol},
		{"bad code", raw(t, "HTTP/1.1 20 OK\r\n\r\n"), postrider.ClassProtocol},
		{"two lengths", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"), postrider.ClassProtocol},
		{"headers without end", raw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 80<<10)+"\r\n\r\n"), postrider.ClassProtocol},
		{"hints without end", raw(t, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10_000)), postrider.ClassProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := send(t, c.url, `{}`)
			require.Error(t, err)
			require.Equal(t, c.want, classOf(t, err), "%v", err)
		})
	}
	t.Run("cut off", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := (&postrider.HTTPSender{Network: loopback}).Send(ctx, request(t, silent.URL, `{}`))
		require.Equal(t, postrider.ClassCanceled, classOf(t, err))
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func dialError(errno syscall.Errno, ip string) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 80}, Err: os.NewSyscallError("connect", errno)}
}

func TestClassesOfErrorsFromARoundTripper(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want postrider.Class
	}{
		{dialError(syscall.EMFILE, "192.0.2.1"), postrider.ClassLocal},
		{dialError(syscall.ENFILE, "192.0.2.1"), postrider.ClassLocal},
		{dialError(syscall.EADDRNOTAVAIL, "192.0.2.1"), postrider.ClassLocal},
		{dialError(syscall.EADDRNOTAVAIL, "2001:db8::1"), postrider.ClassConnect},
		{dialError(syscall.ECONNREFUSED, "192.0.2.1"), postrider.ClassConnect},
		{dialError(syscall.EHOSTUNREACH, "192.0.2.1"), postrider.ClassConnect},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, postrider.ClassConnect},
		{fmt.Errorf("x: %w", syscall.ENOMEM), postrider.ClassLocal},
		{&net.DNSError{Err: "dial udp: socket: too many open files", Name: "x"}, postrider.ClassLocal},
		{&net.DNSError{Err: "i/o timeout", Name: "x", IsTimeout: true}, postrider.ClassDNS},
		{errors.New(`bad Content-Length "too many open files"`), postrider.ClassProtocol}, // the receiver's words
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, postrider.ClassReset},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, postrider.ClassReset},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, postrider.ClassTimeout},
		{&url.Error{Op: "Post", URL: "http://h/secret", Err: io.EOF}, postrider.ClassReset},
		{context.DeadlineExceeded, postrider.ClassTimeout},
		{errors.New("net/http: TLS handshake timeout"), postrider.ClassTLS},
		{errors.New("something else"), postrider.ClassProtocol},
		{&postrider.SendError{Class: postrider.ClassBlocked}, postrider.ClassBlocked},
		{&postrider.SendError{Class: 200, Err: io.EOF}, postrider.ClassReset},
	} {
		s := &postrider.HTTPSender{RoundTripper: roundTripper(func(*http.Request) (*http.Response, error) { return nil, c.err })}
		_, err := s.Send(t.Context(), request(t, "http://a.example/", `{}`))
		require.Equal(t, c.want, classOf(t, err), "%v", c.err)
		require.ErrorIs(t, err, c.err)
		s.CloseIdleConnections() // a RoundTripper without it is no matter
	}
}

func TestTenantAndLogSeeNoMoreThanTheClass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		b := newBench(t, nil, postrider.Config{Logger: logger, Retry: postrider.Schedule{}}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			return postrider.Response{}, fmt.Errorf("calling https://user:hidden@10.0.0.8/in?token=hidden: %w",
				&url.Error{Op: "Post", URL: r.URL.String(), Err: errors.New("at http://10.0.0.8/path/hidden?x refused")})
		})
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Second)
		v, attempts := b.delivery(id)
		require.Equal(t, postrider.ClassProtocol, v.LastClass)
		require.Equal(t, postrider.ClassProtocol.Sentence(), v.LastError)
		require.Equal(t, postrider.ClassProtocol.Sentence(), attempts[0].Error)
		require.Contains(t, out.String(), "host=a.example")
		require.Contains(t, out.String(), "http://10.0.0.8 refused")
		require.NotContains(t, out.String(), "hidden")
		require.NotContains(t, out.String(), testSecret)
	})
}

func TestHTTPSenderIsSafeForManyGoroutines(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer server.Close()
	s := &postrider.HTTPSender{Network: loopback}
	defer s.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 20 {
				body := fmt.Sprintf(`{"i":%d,"n":%d}`, i, n)
				resp, err := s.Send(t.Context(), request(t, server.URL, body))
				if err != nil || string(resp.Body) != body {
					t.Errorf("got %q, %v, want %q", resp.Body, err, body)
				}
			}
		})
	}
	wg.Wait()
}

func TestReceiverVerifiesWhatIsSent(t *testing.T) {
	t.Parallel()
	secret := postrider.NewSecret()
	payloads := []string{`{}`, ` {"a" : "ü\u0000"}` + "\n", `"` + strings.Repeat("x", 100_000) + `"`, `[1,2.50,1e400]`, `null`}
	type arrival struct {
		body string
		err  error
	}
	arrived := make(chan arrival, len(payloads))
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- arrival{string(body), signature.Verify(r.Header, body, secret.Reveal())}
	}))
	defer server.Close()
	d, _ := newDispatcher(t, postrider.Config{Network: loopback})
	_, err := d.EnsureWebhook(t.Context(), postrider.Webhook{
		Name: "a", URL: server.URL + "/in?x=y", Events: []string{"*"}, Secrets: []postrider.Secret{postrider.NewSecret(), secret},
	})
	require.NoError(t, err)
	stop := start(d)
	for _, p := range payloads {
		_, err := d.Emit(t.Context(), postrider.Event{Type: "x", Payload: []byte(p)})
		require.NoError(t, err)
	}
	var got []string
	for range payloads {
		a := <-arrived
		require.NoError(t, a.err)
		got = append(got, a.body)
	}
	require.ElementsMatch(t, payloads, got)
	require.NoError(t, stop())
	require.EqualValues(t, len(payloads), stats(t, d).Delivered)
}

// written counts the calls of Write.
type written struct {
	net.Conn
	n *atomic.Int64
}

func (w written) Write(p []byte) (int, error) {
	w.n.Add(1)
	return w.Conn.Write(p)
}

func TestHeadersAndBodyAreWrittenAtOnce(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	t.Cleanup(srv.Close)
	var n atomic.Int64
	s := &postrider.HTTPSender{}
	s.DialBy(func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return written{conn, &n}, err
	})
	t.Cleanup(s.CloseIdleConnections)
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	for range 10 {
		resp, err := s.Send(t.Context(), postrider.Request{Method: "POST", URL: u, Header: http.Header{}, Body: make([]byte, 1024)})
		require.NoError(t, err)
		require.Equal(t, 200, resp.Code)
	}
	require.Equal(t, int64(10), n.Load(), "writes")
}
