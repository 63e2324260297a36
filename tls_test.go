package postrider_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// authority signs certificates for tests. They hold in 2000 too, when the clock of a bubble begins.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

var trusted = sync.OnceValue(newAuthority)

func newAuthority() *authority {
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"}, NotBefore: year(1999), NotAfter: year(2099),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	a.key = key
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func year(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }

// issue returns a certificate for a.example and 127.0.0.1, unless set makes it another.
func (a *authority) issue(t *testing.T, set func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a.example"}, NotBefore: year(1999), NotAfter: year(2099),
		DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if set != nil {
		set(template)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secure plays a fault within TLS.
func secure(config *tls.Config, inner play) play {
	return func(c *peer) {
		s := tls.Server(c, config)
		defer s.Close()
		inner(&peer{s, c.limit})
	}
}

// hello reads what a client begins with, whose first bytes are the header of a record.
func hello(c *peer) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(c, head); err == nil {
		_, _ = io.CopyN(io.Discard, c, int64(head[3])<<8+int64(head[4]))
	}
}

// record returns the header of a record, and as much of it as there is.
func record(kind byte, length int, content string) string {
	return string([]byte{kind, 3, 3, byte(length >> 8), byte(length)}) + content
}

// tlsFaults are what receivers do instead of a handshake, or after one.
func tlsFaults(t *testing.T) []fault {
	a := trusted()
	with := func(set func(*x509.Certificate)) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{a.issue(t, set)}}
	}
	good := with(nil)
	version := func(low, high uint16) *tls.Config {
		c := with(nil)
		c.MinVersion, c.MaxVersion = low, high
		return c
	}
	stranger := &tls.Config{Certificates: []tls.Certificate{newAuthority().issue(t, nil)}}
	selfSigned := func() *tls.Config {
		lone := newAuthority()
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{lone.cert.Raw}, PrivateKey: lone.key}}}
	}()
	mutual := with(nil)
	mutual.ClientAuth = tls.RequireAnyClientCert
	mutual12 := version(tls.VersionTLS12, tls.VersionTLS12)
	mutual12.ClientAuth = tls.RequireAnyClientCert
	answer := func(text string, more ...func(*peer)) play { return then(text, more...) }
	return []fault{
		{name: "good", play: secure(good, answer(plain)), code: 200, text: "ab"},
		{name: "1.2", play: secure(version(tls.VersionTLS12, tls.VersionTLS12), answer(plain)), code: 200, text: "ab"},
		{name: "1.1", play: secure(version(tls.VersionTLS10, tls.VersionTLS11), answer(plain)), class: postrider.ClassTLS},
		{name: "expired", play: secure(with(func(c *x509.Certificate) { c.NotAfter = year(2000).Add(-time.Hour) }), answer(plain)), class: postrider.ClassTLS},
		{name: "not yet valid", play: secure(with(func(c *x509.Certificate) { c.NotBefore = year(2090) }), answer(plain)), class: postrider.ClassTLS},
		{name: "wrong host", play: secure(with(func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{"b.example"}, []net.IP{net.IPv4(127, 0, 0, 9)}
		}), answer(plain)), class: postrider.ClassTLS},
		{name: "name in the subject only", play: secure(with(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }), answer(plain)), class: postrider.ClassTLS},
		{name: "not for servers", play: secure(with(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), answer(plain)), class: postrider.ClassTLS},
		{name: "self-signed", play: secure(selfSigned, answer(plain)), class: postrider.ClassTLS},
		{name: "unknown authority", play: secure(stranger, answer(plain)), class: postrider.ClassTLS},
		{name: "wants a client certificate", play: secure(mutual, answer(plain)), class: postrider.ClassTLS, or: postrider.ClassReset},
		{name: "wants a client certificate in 1.2", play: secure(mutual12, answer(plain)), class: postrider.ClassTLS, or: postrider.ClassReset},
		{name: "no TLS", play: func(c *peer) { hello(c); c.say("HTTP/1.1 400 Bad Request\r\n\r\n") }, class: postrider.ClassTLS},
		{name: "SMTP", play: func(c *peer) { c.say("220 mail.example ESMTP\r\n"); c.stall() }, class: postrider.ClassTLS},
		{name: "alert", play: func(c *peer) { hello(c); c.say(record(21, 2, "\x02\x28")) }, class: postrider.ClassTLS},
		{name: "closes before the handshake", play: func(*peer) {}, class: postrider.ClassReset},
		{name: "closes in the handshake", play: func(c *peer) { hello(c); c.say(record(22, 90, "\x02\x00")) }, class: postrider.ClassReset},
		{name: "resets in the handshake", play: func(c *peer) { hello(c); c.say(record(22, 90, "\x02\x00")); c.reset() }, class: postrider.ClassReset},
		{name: "stalls before the handshake", play: stall, class: postrider.ClassTimeout, late: true},
		{name: "stalls in the handshake", play: func(c *peer) { hello(c); c.say(record(22, 90, "\x02\x00")); c.stall() }, class: postrider.ClassTimeout, late: true},
		{name: "drips the handshake", play: func(c *peer) { hello(c); c.drip(record(22, 90, strings.Repeat("\x02", 90))) }, class: postrider.ClassTimeout, late: true},
		{name: "endless handshake", play: func(c *peer) {
			hello(c)
			c.endless(record(22, 1<<14, "\x0b\xff\xff\xff"+strings.Repeat("\x00", 1<<14-4)))
		}, class: postrider.ClassTLS},
		{name: "endless empty records", play: func(c *peer) { hello(c); c.endless(record(22, 0, "")) }, class: postrider.ClassTLS},
		{name: "record too long", play: func(c *peer) { hello(c); c.endless(record(22, 0xffff, "x")) }, class: postrider.ClassTLS},
		{name: "stalls after the handshake", play: secure(good, answer("", stall)), class: postrider.ClassTimeout, late: true},
		{name: "closes after the handshake", play: secure(good, answer("")), class: postrider.ClassReset},
		{name: "garbage after the handshake", play: func(c *peer) {
			s := tls.Server(c, good)
			(&peer{s, c.limit}).request()
			c.say(record(23, 40, strings.Repeat("x", 40)))
			c.stall()
		}, class: postrider.ClassTLS},
		{name: "not HTTP in TLS", play: secure(good, answer("hello\r\n\r\n")), class: postrider.ClassProtocol},
		{name: "endless headers in TLS", play: secure(good, answer(ok, endless("X: y\r\n"))), class: postrider.ClassProtocol},
		{name: "endless body in TLS", play: secure(good, answer(ok+"\r\n", endless("ab"))), code: 200, text: "abab", cut: true},
		{name: "endless records of a byte", play: secure(good, answer(ok+"\r\n", func(c *peer) {
			for c.say("a") {
			}
		})), code: 200, text: "aaaa", cut: true},
		{name: "body without its end", play: func(c *peer) {
			s := tls.Server(c, good)
			(&peer{s, c.limit}).request()
			_, _ = io.WriteString(s, ok+"\r\nab") // and no close_notify
		}, code: 200, text: "ab"},
	}
}

func TestTLSFaultsToTheInstant(t *testing.T) {
	t.Parallel()
	for _, f := range tlsFaults(t) {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for range times {
				synctest.Test(t, func(t *testing.T) {
					f.inPipe(t, "https://a.example/", postrider.Network{RootCAs: trusted().pool})
				})
			}
		})
	}
}

// Not parallel, as TestFaultsOverSockets.
func TestTLSFaultsOverSockets(t *testing.T) {
	baseline(t)
	for _, f := range tlsFaults(t) {
		t.Run(f.name, func(t *testing.T) {
			n := loopback
			n.RootCAs = trusted().pool
			f.overSockets(t, "https", n)
		})
	}
}

func TestHandshakeHasATimeLimitOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{serve: func(c net.Conn) { (&peer{Conn: c}).stall() }, eager: true}
		s := &postrider.HTTPSender{}
		s.DialBy(p.dial)
		start := time.Now()
		_, err := s.Send(t.Context(), request(t, "https://a.example/", "{}"))
		require.Equal(t, postrider.ClassTLS, classOf(t, err))
		require.Equal(t, 5*time.Second, time.Since(start))
		p.work.Wait()
	})
}

func TestVerificationIsSkippedByNameOnly(t *testing.T) {
	t.Parallel()
	lone := newAuthority()
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{lone.cert.Raw}, PrivateKey: lone.key}}}
	for _, c := range []struct {
		name    string
		network postrider.Network
		ok      bool
	}{
		{"system's roots", postrider.Network{}, false},
		{"own roots", postrider.Network{RootCAs: trusted().pool}, false},
		{"no roots", postrider.Network{RootCAs: x509.NewCertPool()}, false},
		{"skipped", postrider.Network{InsecureSkipVerify: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := &pipes{serve: func(c net.Conn) { secure(config, then(plain))(&peer{Conn: c}) }, eager: true}
			s := &postrider.HTTPSender{Network: c.network}
			defer s.CloseIdleConnections()
			s.DialBy(p.dial)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			resp, err := s.Send(ctx, request(t, "https://a.example/", "{}"))
			if !c.ok {
				require.Equal(t, postrider.ClassTLS, classOf(t, err))
				return
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal([]byte("ab"), resp.Body))
		})
	}
}
