package postrider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"

	"github.com/postrider/postrider/internal/netguard"
)

// Sender makes one HTTP call. Send is called from many goroutines at once. It must return soon after ctx ends, and it
// never tries again by itself: each call is one attempt, and is recorded as one.
type Sender interface {
	// Send sends the request and returns the answer, whatever its status code: the webhook's rule judges it. An error
	// means that there was no answer. A *SendError says of which class; another error is classified by what it wraps.
	// With ClassLocal the call is not counted as an attempt, and sending pauses for a moment.
	Send(ctx context.Context, r Request) (Response, error)
}

// Request is a finished HTTP request: signed, its headers checked. Nothing in it may be changed but the map Header
// itself, by adding or replacing whole entries.
type Request struct {
	Method string
	URL    *url.URL
	Header http.Header
	Body   []byte // exactly what was signed

	WebhookID  string
	EventID    string
	DeliveryID string
	Attempt    int // 1 for the first
}

// Response is an answer. A sender gives it away and keeps nothing of it.
type Response struct {
	Code      int
	Header    http.Header
	Body      []byte // its first MaxBody bytes at most
	Truncated bool   // there was more
}

// SendError is why there was no answer. Only the class's fixed sentence is kept and shown; Err is for the log.
type SendError struct {
	Class Class
	Err   error
}

// Error returns the class and the text of Err, which may hold addresses.
func (e *SendError) Error() string {
	if e.Err == nil {
		return "postrider: send: " + e.Class.String()
	}
	return "postrider: send: " + e.Class.String() + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *SendError) Unwrap() error { return e.Err }

// HTTPSender is the default Sender. The zero value is ready. It calls what its Network allows, follows no redirects,
// keeps no cookies, uses no proxy, speaks HTTP/1.1 and TLS 1.2 or later, and unpacks nothing. Of an answer it reads 64
// KiB of headers, those of answers before it (1xx) included, and MaxBody of body; never more than 84 KiB from the
// connection. The deadline of the context is the only time limit on the whole; a dial with its lookup and a TLS
// handshake may take 5 s each. An answer whose status line and headers are complete counts, also if its body then
// breaks off.
//
// It must not be copied. Connections are kept for 30 s after their last use, until CloseIdleConnections.
type HTTPSender struct {
	// Network is what may be called, as Config.Network is for the dispatcher's own sender. It is set before the first
	// Send; with one that is not valid all calls fail, with ClassLocal.
	Network Network
	// RoundTripper makes the calls instead of the transport that HTTPSender builds.
	//
	// **It turns the address guard off: of Network only RequireHTTPS holds then, and whoever chooses a URL reaches
	// whatever the RoundTripper reaches.** What is said above about connections, proxies, versions, times and headers
	// is its business as well. It is set before the first Send.
	RoundTripper http.RoundTripper

	idle      int             // connections kept to a host; maxIdle if less
	guard     *netguard.Guard // of Network; made by build if nil
	dial      dialFunc        // the guard's if nil
	once      sync.Once       // for build
	transport *http.Transport
	err       error // of Network
}

var _ Sender = (*HTTPSender)(nil)

// Limits of the transport.
const (
	maxIdle         = 512
	idleTime        = 30 * time.Second
	connectTime     = 5 * time.Second
	maxAnswerHeader = 64 << 10
	readBuffer      = 4 << 10
)

var errPlain = errors.New("http, where Network.RequireHTTPS wants https")

// Send makes the call.
func (s *HTTPSender) Send(ctx context.Context, r Request) (Response, error) {
	if s.Network.RequireHTTPS && r.URL.Scheme != "https" {
		return Response{}, &SendError{Class: ClassBlocked, Err: errPlain}
	}
	c := &call{}
	via := s.RoundTripper
	if via == nil {
		if s.once.Do(s.build); s.err != nil {
			return Response{}, &SendError{Class: ClassLocal, Err: s.err}
		}
		via = s.transport
		c.trace.GotConn = c.gotConn
		ctx = httptrace.WithClientTrace(ctx, &c.trace)
	}
	req := (&http.Request{
		Method:        r.Method,
		URL:           r.URL,
		Host:          r.URL.Host,
		Header:        r.Header,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		ContentLength: int64(len(r.Body)),
		Body:          http.NoBody,
	}).WithContext(ctx)
	if len(r.Body) > 0 {
		// net/http writes a body of a type that it knows to be in memory together with the headers; others after them.
		c.body.Reset(r.Body)
		req.Body = io.NopCloser(&c.body)
		// With GetBody the transport may dial anew if a kept connection turns out closed before a byte was written.
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
	}
	// RoundTrip, not a Client: no redirects, no cookies, no errors that quote the URL.
	resp, err := via.RoundTrip(req)
	if err != nil {
		class := classOf(ctx, err)
		if class == ClassProtocol && c.cut(err) {
			class = ClassReset
		}
		return Response{}, &SendError{Class: class, Err: err}
	}
	defer resp.Body.Close() // without draining: a connection with more to come is not worth keeping
	if resp.StatusCode < 100 {
		// net/http takes any three digits. 0 would stand for no answer.
		return Response{}, &SendError{Class: ClassProtocol, Err: fmt.Errorf("the status code %03d", resp.StatusCode)}
	}
	answer := Response{Code: resp.StatusCode, Header: resp.Header}
	if resp.ContentLength != 0 && resp.StatusCode >= http.StatusOK {
		answer.Body, answer.Truncated = readBody(resp.Body)
	}
	return answer, nil
}

// CloseIdleConnections closes the connections that are kept and not in use.
func (s *HTTPSender) CloseIdleConnections() {
	if s.RoundTripper != nil {
		if c, ok := s.RoundTripper.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
		return
	}
	if s.once.Do(s.build); s.transport != nil {
		s.transport.CloseIdleConnections()
	}
}

// build makes the transport.
func (s *HTTPSender) build() {
	if s.guard == nil {
		if s.guard, s.err = netguard.New(s.Network.policy()); s.err != nil {
			return
		}
	}
	dial := s.dial
	if dial == nil {
		dial = s.guard.DialContext
	}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	s.transport = &http.Transport{
		Proxy:                  nil, // that of the environment would hide the address from the guard
		DialContext:            bound(dial),
		TLSClientConfig:        s.Network.tls(),
		TLSHandshakeTimeout:    connectTime,
		MaxResponseHeaderBytes: maxAnswerHeader,
		ReadBufferSize:         readBuffer,
		DisableCompression:     true,
		MaxIdleConns:           max(maxIdle, s.idle),
		MaxIdleConnsPerHost:    max(maxIdle, s.idle),
		IdleConnTimeout:        idleTime,
		Protocols:              &http1,
	}
}

// bodies holds buffers for readBody: *[MaxBody + 1]byte.
var bodies = sync.Pool{New: func() any { return new([MaxBody + 1]byte) }}

// readBody reads until the end, an error or the limit. It must see the end of a short body, or the connection could
// not be used again; an error is no matter, since the status decides.
func readBody(r io.Reader) (body []byte, truncated bool) {
	buf := bodies.Get().(*[MaxBody + 1]byte)
	defer bodies.Put(buf)
	n, err := io.ReadFull(r, buf[:])
	truncated = n > MaxBody || errors.Is(err, errTooMuch)
	if n == 0 {
		return nil, truncated
	}
	return bytes.Clone(buf[:min(n, MaxBody)]), truncated
}
