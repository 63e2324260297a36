package postrider_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postrider/postrider"
)

// fault is a receiver that misbehaves.
type fault struct {
	name  string
	body  int // bytes of the request's body; 2 if zero
	play  play
	class postrider.Class // of the failure; ClassNone: there is an answer
	or    postrider.Class // what it may be instead, by what comes first; ClassNone: nothing
	code  int             // of the answer
	text  string          // the beginning of its body
	cut   bool            // Truncated
	late  bool            // it takes all of the time limit
	wait  time.Duration   // it takes so long, if not late
}

// play is the receiver's side of a connection, which is closed when it returns.
type play func(c *peer)

// peer is a connection of a receiver, with the time limit of the request.
type peer struct {
	net.Conn
	limit time.Duration
}

// request reads all of a request.
func (c *peer) request() {
	if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// say writes as long as somebody listens.
func (c *peer) say(text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

// endless writes text until nobody listens.
func (c *peer) endless(text string) {
	text = strings.Repeat(text, max(1, 4000/len(text)))
	for c.say(text) {
	}
}

// drip writes text again and again, a tenth of the limit between the bytes.
func (c *peer) drip(text string) {
	for i := 0; c.say(text[i%len(text) : i%len(text)+1]); i++ {
		time.Sleep(c.limit / 10)
	}
}

// stall does nothing until the other side is gone.
func (c *peer) stall() { _, _ = io.Copy(io.Discard, c) }

// reset has the connection end by a reset where there is such a thing.
func (c *peer) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// then does one after the other once the request was read.
func then(text string, more ...func(*peer)) play {
	return func(c *peer) {
		c.request()
		if c.say(text) {
			for _, do := range more {
				do(c)
			}
		}
	}
}

func endless(text string) func(*peer) { return func(c *peer) { c.endless(text) } }
func drip(text string) func(*peer)    { return func(c *peer) { c.drip(text) } }

// wait reads nothing until the request has ended for sure.
func wait(c *peer) { time.Sleep(2 * c.limit) }

// half reads the beginning of a large request.
func half(c *peer) { _, _ = io.ReadFull(c, make([]byte, 10_000)) }

const (
	ok    = "HTTP/1.1 200 OK\r\n"
	plain = ok + "Content-Length: 2\r\n\r\nab"
	large = 1 << 20
)

var (
	reset = (*peer).reset
	stall = (*peer).stall
)

// faults are what receivers do. What says late ends with the time limit, everything else at once.
var faults = []fault{
	// Before the answer.
	{name: "closes at once", play: func(*peer) {}, class: postrider.ClassReset},
	{name: "resets at once", play: reset, class: postrider.ClassReset, or: postrider.ClassConnect},
	{name: "reads nothing", body: 16 * large, play: wait, class: postrider.ClassTimeout, late: true},
	{name: "closes in the request", body: 16 * large, play: half, class: postrider.ClassReset},
	{name: "resets in the request", body: 16 * large, play: func(c *peer) { half(c); c.reset() }, class: postrider.ClassReset},
	{name: "stalls in the request", body: 16 * large, play: func(c *peer) { half(c); wait(c) }, class: postrider.ClassTimeout, late: true},
	{name: "answers in the request", body: 16 * large, play: func(c *peer) { half(c); c.say(plain); time.Sleep(c.limit / 20) }, code: 200, text: "ab", wait: 50 * time.Millisecond},
	{name: "closes after the request", play: then(""), class: postrider.ClassReset},
	{name: "resets after the request", play: then("", reset), class: postrider.ClassReset},
	{name: "stalls after the request", play: then("", stall), class: postrider.ClassTimeout, late: true},
	// The status line.
	{name: "closes in the status line", play: then("HTTP/1.1 20"), class: postrider.ClassReset},
	{name: "resets in the status line", play: then("HTTP/1.1 20", reset), class: postrider.ClassReset},
	{name: "closes in the version", play: then("HTTP/"), class: postrider.ClassReset},
	{name: "stalls in the status line", play: then("HTTP/1.1 20", stall), class: postrider.ClassTimeout, late: true},
	{name: "drips the status line", play: then("", drip(plain)), class: postrider.ClassTimeout, late: true},
	{name: "endless status line", play: then("HTTP/1.1 200 ", endless("x")), class: postrider.ClassProtocol},
	{name: "code 000", play: then("HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "code 099", play: then("HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "code 99", play: then("HTTP/1.1 99 No\r\nContent-Length: 0\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "code 999", play: then("HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n"), code: 999},
	{name: "code 1000", play: then("HTTP/1.1 1000 No\r\nContent-Length: 0\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "code -20", play: then("HTTP/1.1 -20 No\r\nContent-Length: 0\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "code 2OO", play: then("HTTP/1.1 2OO OK\r\nContent-Length: 0\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "no code", play: then("HTTP/1.1\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "no version", play: then("200 OK\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "bad version", play: then("HTTP/one 200 OK\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "lines before", play: then("\r\n\r\n" + plain), class: postrider.ClassProtocol},
	{name: "SSH", play: func(c *peer) { c.say("SSH-2.0-OpenSSH_9.6\r\n"); c.stall() }, class: postrider.ClassProtocol, or: postrider.ClassReset},
	{name: "HTTP/2", play: then("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\r\n", stall), class: postrider.ClassProtocol},
	{name: "TLS", play: then("\x15\x03\x01\x00\x02\x02\x0a", reset), class: postrider.ClassProtocol},
	{name: "an alert of TLS", play: then("\x15\x03\x01\x00\x02\x02\x46"), class: postrider.ClassProtocol},
	{name: "noise without a line", play: then("", endless("\xff\x00")), class: postrider.ClassProtocol},
	// The headers.
	{name: "closes in the headers", play: then(ok + "Content-Le"), class: postrider.ClassReset},
	{name: "resets in the headers", play: then(ok+"Content-Le", reset), class: postrider.ClassReset},
	{name: "stalls in the headers", play: then(ok+"Content-Le", stall), class: postrider.ClassTimeout, late: true},
	{name: "drips headers", play: then(ok, drip("X: y\r\n")), class: postrider.ClassTimeout, late: true},
	{name: "endless header", play: then(ok+"X: ", endless("y")), class: postrider.ClassProtocol},
	{name: "endless headers", play: then(ok, endless("X: y\r\n")), class: postrider.ClassProtocol},
	{name: "headers too large", play: then(ok + strings.Repeat("X: "+strings.Repeat("y", 995)+"\r\n", 66) + "\r\n"), class: postrider.ClassProtocol},
	{name: "large headers", play: then(ok + strings.Repeat("X: "+strings.Repeat("y", 995)+"\r\n", 62) + "Content-Length: 2\r\n\r\nab"), code: 200, text: "ab"},
	{name: "header without a colon", play: then(ok + "Huh\r\n\r\n"), class: postrider.ClassProtocol},
	{name: "header with a space", play: then(ok + "X Y: z\r\nContent-Length: 2\r\n\r\nab"), code: 200, text: "ab"},
	{name: "two lengths", play: then(ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), class: postrider.ClassProtocol},
	{name: "length -1", play: then(ok + "Content-Length: -1\r\n\r\nab"), class: postrider.ClassProtocol},
	{name: "length 1e3", play: then(ok + "Content-Length: 1e3\r\n\r\nab"), class: postrider.ClassProtocol},
	{name: "length beyond 64 bits", play: then(ok + "Content-Length: 99999999999999999999\r\n\r\nab"), class: postrider.ClassProtocol},
	{name: "unknown framing", play: then(ok + "Transfer-Encoding: gzip, chunked\r\n\r\nab"), class: postrider.ClassProtocol},
	{name: "length and chunks", play: then(ok + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"), code: 200, text: "ab"},
	// Answers before the answer.
	{name: "unasked 100", play: then("HTTP/1.1 100 Continue\r\n\r\n" + plain), code: 200, text: "ab"},
	{name: "101", play: then("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", endless("x")), code: 101},
	{name: "endless 103", play: then("", endless("HTTP/1.1 103 Early Hints\r\n\r\n")), class: postrider.ClassProtocol},
	{name: "endless 103 with headers", play: then("", endless("HTTP/1.1 103 Early Hints\r\nLink: <"+strings.Repeat("x", 900)+">\r\n\r\n")), class: postrider.ClassProtocol},
	{name: "drips 103", play: then("", drip("HTTP/1.1 103 Early Hints\r\n\r\n")), class: postrider.ClassTimeout, late: true},
	// The body.
	{name: "closes in the body", play: then(ok + "Content-Length: 9\r\n\r\nab"), code: 200, text: "ab"},
	{name: "stalls in the body", play: then(ok+"Content-Length: 9\r\n\r\nab", stall), code: 200, text: "ab", late: true},
	{name: "stalls before the body", play: then(ok+"Content-Length: 9\r\n\r\n", stall), code: 200, late: true},
	{name: "drips the body", play: then(ok+"\r\n", drip("ab")), code: 200, text: "ab", late: true},
	{name: "endless body", play: then(ok+"\r\n", endless("ab")), code: 200, text: "abab", cut: true},
	{name: "body of 8 EiB", play: then(ok+"Content-Length: 9223372036854775807\r\n\r\n", endless("ab")), code: 200, text: "abab", cut: true},
	{name: "bomb", play: then(ok+"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00", endless("\x00")), code: 200, text: "\x1f\x8b\x08\x00\x00", cut: true},
	{name: "garbage for a chunk", play: then(ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nhuh\r\n"), code: 200, text: "ab"},
	{name: "chunk beyond 64 bits", play: then(ok+"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1ffffffffffffffff\r\n", endless("x")), code: 200, text: "ab"},
	{name: "endless chunk", play: then(ok+"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", endless("ab")), code: 200, text: "abab", cut: true},
	{name: "endless length of a chunk", play: then(ok+"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", endless("0")), code: 200, text: "ab"},
	{name: "endless extension of a chunk", play: then(ok+"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;", endless("x")), code: 200, text: "ab"},
	{name: "endless chunks of a byte", play: then(ok+"Transfer-Encoding: chunked\r\n\r\n", endless("1;padding-pad\r\na\r\n")), code: 200, text: "aaaa", cut: true},
	{name: "endless trailers", play: then(ok+"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nab\r\n0\r\n", endless("X: y\r\n")), code: 200, text: "ab"},
	{name: "bad trailer", play: then(ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nhuh\r\n\r\n"), code: 200, text: "ab"},
	{name: "stalls in the chunks", play: then(ok+"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", stall), code: 200, text: "ab", late: true},
	{name: "body with 204", play: then("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nab"), code: 204},
	{name: "answers twice", play: then(plain + "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), code: 200, text: "ab"},
	{name: "redirects", play: then("HTTP/1.1 307 Go\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n"), code: 307},
}

// times is how often each fault is played.
const times = 20

// judge fails the test unless the answer or error is what the fault says.
func (f *fault) judge(t *testing.T, resp postrider.Response, err error) {
	t.Helper()
	if f.class != postrider.ClassNone {
		require.Error(t, err)
		if class := classOf(t, err); f.or == postrider.ClassNone || class != f.or {
			require.Equal(t, f.class, class, "%v", err)
		}
		return
	}
	require.NoError(t, err)
	require.Equal(t, f.code, resp.Code)
	require.Equal(t, f.text, string(resp.Body[:min(len(f.text), len(resp.Body))]))
	require.LessOrEqual(t, len(resp.Body), postrider.MaxBody)
	require.Equal(t, f.cut, resp.Truncated)
	if !f.cut && !f.late {
		require.Len(t, resp.Body, len(f.text))
	}
}

func (f *fault) request(t *testing.T, url string) postrider.Request {
	return request(t, url, strings.Repeat("x", max(2, f.body)))
}

// pipes dials receivers in memory.
type pipes struct {
	serve func(net.Conn)
	eager bool         // writes of the sender need not wait for the receiver to read, as TLS expects
	read  atomic.Int64 // bytes, of all connections
	work  sync.WaitGroup
}

// dial is for HTTPSender.DialBy.
func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	p.work.Go(func() {
		defer far.Close()
		p.serve(far)
	})
	if p.eager {
		near = newEager(near)
	}
	return metered{near, &p.read}, nil
}

// eager is a connection that has room for what is written: the pipe has none.
type eager struct {
	net.Conn
	queue chan []byte
	done  chan struct{}
	once  sync.Once
}

func newEager(c net.Conn) *eager {
	e := &eager{Conn: c, queue: make(chan []byte, 64), done: make(chan struct{})}
	go func() {
		for {
			select {
			case b := <-e.queue:
				_, _ = c.Write(b)
			case <-e.done:
				return
			}
		}
	}()
	return e
}

func (e *eager) Write(b []byte) (int, error) {
	select {
	case e.queue <- slices.Clone(b):
		return len(b), nil
	case <-e.done:
		return 0, net.ErrClosed
	}
}

func (e *eager) Close() error {
	e.once.Do(func() { close(e.done) })
	return e.Conn.Close()
}

type metered struct {
	net.Conn
	read *atomic.Int64
}

func (c metered) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

func TestFaultsToTheInstant(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for range times {
				synctest.Test(t, func(t *testing.T) { f.inPipe(t, "http://a.example/", postrider.Network{}) })
			}
		})
	}
}

// inPipe plays the fault once, in a bubble.
func (f *fault) inPipe(t *testing.T, url string, n postrider.Network) {
	const limit = 3 * time.Second
	p := &pipes{serve: func(c net.Conn) { f.play(&peer{c, limit}) }, eager: strings.HasPrefix(url, "https")}
	s := &postrider.HTTPSender{Network: n}
	s.DialBy(p.dial)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	resp, err := s.Send(ctx, f.request(t, url))
	took := time.Since(start)
	s.CloseIdleConnections()
	p.work.Wait() // so the sender has closed its side
	f.judge(t, resp, err)
	want := f.wait // of which net/http gives a request 50 ms that was answered before it was sent
	if f.late {
		want = limit
	}
	require.Equal(t, want, took)
	require.LessOrEqual(t, p.read.Load(), int64(postrider.MaxAnswer))
}

// Not parallel: it looks at what the process as a whole has open.
func TestFaultsOverSockets(t *testing.T) {
	baseline(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { f.overSockets(t, "http", loopback) })
	}
}

// baseline fails the test if at its end there are more goroutines or descriptors than now, when dials and handshakes
// that nobody waits for any more have had their time.
func baseline(t *testing.T) {
	before, descriptors := goleak.IgnoreCurrent(), openDescriptors(t)
	t.Cleanup(func() {
		var leaked error
		for range 100 {
			if leaked = goleak.Find(before); leaked == nil && openDescriptors(t) <= descriptors {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		require.NoError(t, leaked)
		require.LessOrEqual(t, openDescriptors(t), descriptors)
	})
}

// overSockets plays the fault to some requests at a time; those that wait for the end of their limit wait together.
func (f *fault) overSockets(t *testing.T, scheme string, n postrider.Network) {
	limit, together := 10*time.Second, 4
	if f.late {
		limit, together = 300*time.Millisecond, times
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				f.play(&peer{c, limit})
			})
		}
	})
	type result struct {
		resp postrider.Response
		err  error
		took time.Duration
	}
	results := make(chan result, times)
	r := f.request(t, scheme+"://"+l.Addr().String())
	for range together {
		go func() {
			for range times / together {
				s := &postrider.HTTPSender{Network: n} // a new one, so that every request has its own connection
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				start := time.Now()
				resp, err := s.Send(ctx, r)
				results <- result{resp, err, time.Since(start)}
				cancel()
				s.CloseIdleConnections()
			}
		}()
	}
	for range times {
		got := <-results
		f.judge(t, got.resp, got.err)
		require.LessOrEqual(t, got.took, limit*3/2+time.Second)
		if !f.late {
			require.Less(t, got.took, limit)
		}
	}
	require.NoError(t, l.Close())
	work.Wait()
}

// FuzzResponse answers with any bytes, in pieces, and then stalls or closes.
func FuzzResponse(f *testing.F) {
	f.Add([]byte(plain), 10, true)
	f.Add([]byte(ok+"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n"), 3, false)
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 500 No\r\n\r\nab"), 1, true)
	f.Add([]byte("HTTP/1.1 000 No\r\nContent-Length: 99999\r\n\r\n"+strings.Repeat("x", 20_000)), 4096, false)
	f.Add([]byte(ok+strings.Repeat("A: b\r\n", 9000)), 5000, true)
	f.Fuzz(func(t *testing.T, answer []byte, piece int, closes bool) {
		synctest.Test(t, func(t *testing.T) {
			const limit = time.Minute
			p := &pipes{serve: func(c net.Conn) {
				peer := &peer{c, limit}
				peer.request()
				for rest := answer; len(rest) > 0; {
					n := min(len(rest), max(1, piece))
					if !peer.say(string(rest[:n])) {
						return
					}
					rest = rest[n:]
				}
				if !closes {
					peer.stall()
				}
			}}
			s := &postrider.HTTPSender{}
			s.DialBy(p.dial)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			start := time.Now()
			resp, err := s.Send(ctx, request(t, "http://a.example/", "{}"))
			took := time.Since(start)
			s.CloseIdleConnections()
			p.work.Wait()
			require.LessOrEqual(t, p.read.Load(), int64(postrider.MaxAnswer))
			if closes {
				require.Zero(t, took, "nothing is waited for")
			}
			require.LessOrEqual(t, took, limit)
			if err == nil {
				require.True(t, resp.Code >= 100 && resp.Code <= 999, "%d", resp.Code)
				require.LessOrEqual(t, len(resp.Body), postrider.MaxBody)
				require.Contains(t, string(answer), fmt.Sprint(resp.Code))
				return
			}
			require.Contains(t, []postrider.Class{postrider.ClassProtocol, postrider.ClassReset, postrider.ClassTimeout}, classOf(t, err))
			require.Equal(t, took == limit, classOf(t, err) == postrider.ClassTimeout, "%v after %v", err, took)
		})
	})
}
