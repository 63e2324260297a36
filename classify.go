package postrider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"github.com/postrider/postrider/internal/netguard"
)

// classOf says why a call that ran under ctx returned an error instead of an answer. It returns one of the classes,
// never ClassNone.
func classOf(ctx context.Context, err error) Class {
	if as[*netguard.Blocked](err) {
		return ClassBlocked // before all else: it is certain, and no means, time or receiver changes it
	}
	var told *SendError
	if errors.As(err, &told) && told.Class > ClassNone && int(told.Class) < len(classText) {
		return told.Class
	}
	text := err.Error()
	switch {
	case isLocal(err):
		return ClassLocal
	case ctx.Err() != nil:
		// The end of the context shows as whatever the call was doing: say what ended it.
		return classOfContext(ctx.Err())
	case as[*net.DNSError](err):
		return ClassDNS
	case isTLS(err, text):
		return ClassTLS
	case isDial(err):
		// Before what is about time: a dial has a limit of its own.
		return ClassConnect
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return classOfContext(err)
	case isTimeout(err):
		return ClassTimeout
	case isReset(err, text):
		return ClassReset
	}
	return ClassProtocol
}

func classOfContext(err error) Class {
	if errors.Is(err, context.DeadlineExceeded) {
		return ClassTimeout
	}
	return ClassCanceled
}

// isLocal reports whether this machine lacked the means: it says nothing about the receiver.
func isLocal(err error) bool {
	for _, no := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS} {
		if errors.Is(err, no) {
			return true
		}
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		// No port is left; but on a machine without IPv6 it is what every such address gets, and one webhook with
		// such an address must not make all others wait.
		var op *net.OpError
		return !errors.As(err, &op) || !isIPv6(op.Addr)
	}
	// All that is left of it in a resolver's error. Other errors quote what the receiver sent.
	var dns *net.DNSError
	return errors.As(err, &dns) && strings.Contains(dns.Err, "too many open files")
}

func isIPv6(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.To4() == nil
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isTimeout(err error) bool {
	var timed net.Error
	return errors.As(err, &timed) && timed.Timeout()
}

// isTLS knows two errors of net/http by their text only.
func isTLS(err error, text string) bool {
	return as[*tls.CertificateVerificationError](err) || as[tls.RecordHeaderError](err) || as[tls.AlertError](err) ||
		as[x509.UnknownAuthorityError](err) || as[x509.HostnameError](err) || as[x509.CertificateInvalidError](err) ||
		strings.Contains(text, "TLS handshake timeout") || strings.Contains(text, "HTTP response to HTTPS client") ||
		strings.Contains(text, "tls: ")
}

// isReset knows one error of net/http by its text only.
func isReset(err error, text string) bool {
	for _, target := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED} {
		if errors.Is(err, target) {
			return true
		}
	}
	return strings.Contains(text, "server closed idle connection")
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// urls finds URLs in a text, and takes them apart: scheme, user, host, the rest.
var urls = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/?#"@]*@)?([^\s/?#"]*)[^\s"]*`)

// detail returns the text of a sender's error for the log, without more of a URL than its host. Of a blocked call it is
// the only place where the address and the rule are told.
func detail(err error) string {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	text := urls.ReplaceAllString(err.Error(), "$1$2")
	var blocked *netguard.Blocked
	switch {
	case !errors.As(err, &blocked):
	case blocked.Addr.IsValid():
		text += ": " + blocked.Addr.String() + ", " + blocked.Rule
	default:
		text += ": " + blocked.Rule
	}
	return text[:min(len(text), maxMessage)]
}
