// Client-cert sends to receivers that know their senders by a client certificate (mutual TLS). The certificate belongs
// to the transport, so that a RoundTripper of the program's own makes the calls. The receiver, in the same program,
// refuses whoever has none.
//
//	go run ./examples/client-cert
//
// A RoundTripper of one's own turns the address guard off. Here one transport serves one receiver that the program
// itself has chosen, and it dials nobody else: do so as well, or dial through a guard, before strangers choose URLs.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "client-cert:", err)
		os.Exit(1)
	}
}

// newTransport returns a transport that shows the certificate, trusts the roots, and dials one address only. What
// HTTPSender's own transport would see to is set here: no proxy, HTTP/1.1, TLS 1.2, limits, nothing unpacked.
func newTransport(own tls.Certificate, roots *x509.CertPool, receiver string) *http.Transport {
	var http1 http.Protocols
	http1.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != receiver {
				return nil, &postrider.SendError{Class: postrider.ClassBlocked, Err: errors.New("not the receiver of this transport")}
			}
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}, RootCAs: roots},
		TLSHandshakeTimeout:    5 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second,
		Protocols:              &http1,
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	authority, err := newAuthority() // in a real program the three come from files
	if err != nil {
		return err
	}
	own, err := authority.issue("shop.example")
	if err != nil {
		return err
	}
	receiver, err := startReceiver(authority)
	if err != nil {
		return err
	}
	defer receiver.Close()

	store := memstore.New(memstore.Options{}) // for an example; what is to survive belongs in a bolt.Store
	defer func() { err = errors.Join(err, store.Close()) }()

	sender := &postrider.HTTPSender{RoundTripper: newTransport(own, authority.pool, receiver.Listener.Addr().String())}
	defer sender.CloseIdleConnections()
	d, err := postrider.New(store, postrider.Config{
		Sender: sender,
		// For the URL: the receiver is on this machine, where no webhook may point otherwise.
		Network: postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, RequireHTTPS: true},
	})
	if err != nil {
		return err
	}
	hook, err := d.EnsureWebhook(ctx, postrider.Webhook{Name: "bank", URL: receiver.URL, Events: []string{"payment.*"}})
	if err != nil {
		return err
	}
	attempt, err := d.SendTest(ctx, hook.ID) // and so would Run
	if err != nil {
		return err
	}
	if attempt.Failed {
		return fmt.Errorf("the attempt failed: %s", attempt.Error)
	}
	fmt.Fprintf(out, "with the certificate: %d, %s\n", attempt.Code, attempt.Body)

	// Another one has the same roots and no certificate.
	plain := &postrider.HTTPSender{RoundTripper: newTransport(tls.Certificate{}, authority.pool, receiver.Listener.Addr().String())}
	defer plain.CloseIdleConnections()
	if d, err = postrider.New(store, postrider.Config{
		Sender:  plain,
		Network: postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}},
	}); err != nil {
		return err
	}
	if attempt, err = d.SendTest(ctx, hook.ID); err != nil {
		return err
	}
	if !attempt.Failed {
		return errors.New("the receiver takes anybody")
	}
	fmt.Fprintf(out, "without it: %s\n", attempt.Error)
	return nil
}
