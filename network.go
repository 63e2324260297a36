package postrider

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/postrider/postrider/internal/netguard"
)

// Network says what may be called. The zero value is the one for URLs that strangers choose: public addresses only, on
// the ports of the web, with certificates that the system trusts.
//
// The address is judged when it is dialled, so that it makes no difference how a name resolves, or whether it does so
// otherwise the next time. An attempt that is refused fails with ClassBlocked; only the log, at debug level, says which
// address it was, and why. There is no proxy: it would be dialled in place of the receiver, and hide its address.
type Network struct {
	// AllowPrefixes may be called although they are not public: receivers of one's own, such as 10.1.0.0/16, or
	// 127.0.0.1/32 and ::1/128 in tests. There every port will do, and names of one label or with an ending such as
	// .internal too. Whoever may choose a URL can reach all of it: the smaller the better. None if empty.
	AllowPrefixes []netip.Prefix
	// DenyPrefixes are never called, and go before AllowPrefixes. One's own public addresses belong here, if what
	// they serve trusts whoever can connect. None if empty.
	DenyPrefixes []netip.Prefix
	// AllowPorts are the ports that may be called outside AllowPrefixes; 80, 443, 8080 and 8443 if empty. Every other
	// one is a protocol that a stranger could have spoken to.
	AllowPorts []uint16
	// RequireHTTPS refuses http, in AllowPrefixes too. Without it the URL decides whether payloads can be read on
	// their way; signed they are always.
	RequireHTTPS bool
	// RootCAs are the authorities that certificates must come from; the system's if nil. It must not change any more.
	RootCAs *x509.CertPool
	// InsecureSkipVerify takes any certificate for any host: anybody on the way can read and answer what is sent. It is
	// for tests; a receiver with a certificate of its own is better served by RootCAs.
	InsecureSkipVerify bool
}

// policy is the part that the guard decides.
func (n *Network) policy() netguard.Policy {
	return netguard.Policy{
		AllowPrefixes: n.AllowPrefixes, DenyPrefixes: n.DenyPrefixes, AllowPorts: n.AllowPorts, RequireHTTPS: n.RequireHTTPS,
	}
}

// check notes what is wrong.
func (n *Network) check(p *problems, name string) {
	for _, problem := range n.policy().Check() {
		p.add(name+"."+problem.Name, problem.Code, "%s", problem.Reason)
	}
}

// tls returns the settings of a new transport.
func (n *Network) tls() *tls.Config {
	if n.RootCAs == nil && !n.InsecureSkipVerify {
		// They are read once, by whoever needs them first, and a failure is remembered for good: better now than in
		// the middle of a shortage of descriptors.
		_, _ = x509.SystemCertPool()
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            n.RootCAs,
		InsecureSkipVerify: n.InsecureSkipVerify,
	}
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// maxAnswer is how many bytes are read of a connection for one answer, with all that frames them and the handshake of
// TLS if it is the first: the headers, the body, and what a buffer may hold beyond.
const maxAnswer = maxAnswerHeader + MaxBody + readBuffer

var errTooMuch = errors.New("more than is read of an answer")

// bounded is a connection of which no more than maxAnswer is read until the next request. The limits of net/http are
// for headers, and for a body as it is unpacked: chunks of one byte, or records of TLS with one, make it many times
// longer on the wire.
type bounded struct {
	net.Conn
	left  atomic.Int64
	ended atomic.Bool // no more can be read
}

// bound returns a dial whose connections are bounded.
func bound(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		b := &bounded{Conn: conn}
		b.left.Store(maxAnswer)
		return b, nil
	}
}

// Read reads what is left at most.
func (b *bounded) Read(p []byte) (int, error) {
	left := b.left.Load()
	if left <= 0 {
		return 0, errTooMuch
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), left)])
	b.left.Add(-int64(n))
	if err != nil {
		b.ended.Store(true)
	}
	return n, err
}

// call is a request on its way.
type call struct {
	trace httptrace.ClientTrace
	body  bytes.Reader
	conn  *bounded // that it got last; nil if it got none, or with another RoundTripper
}

// gotConn gives a connection that has answered before its bound anew. The transport is reading of it already, as it
// does between requests to see the connection's end.
func (c *call) gotConn(info httptrace.GotConnInfo) {
	conn := info.Conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if c.conn, _ = conn.(*bounded); c.conn != nil && info.Reused {
		c.conn.left.Store(maxAnswer)
	}
}

// cut reports whether the connection ended in the middle of what may have been an answer. net/http only says then that
// the last line it got is no good.
func (c *call) cut(err error) bool {
	const bad = `malformed HTTP response "`
	text := err.Error()
	return c.conn != nil && c.conn.ended.Load() && (!strings.Contains(text, bad) || strings.Contains(text, bad+"HTTP/"))
}
