package postrider

import (
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// Limits of a webhook's own headers.
const (
	maxHeaders     = 32
	maxHeaderValue = 4 << 10
	maxHeaderBytes = 16 << 10
)

// deniedHeaders frame, route or sign the message, or make net/http send it again: a webhook may not set them.
var deniedHeaders = map[string]bool{
	"Host": true, "Content-Length": true, "Content-Type": true, "Content-Encoding": true, "Transfer-Encoding": true,
	"Trailer": true, "Te": true, "Connection": true, "Keep-Alive": true, "Upgrade": true, "Expect": true,
	"Http2-Settings": true, "Accept-Encoding": true, "Cookie": true, "Date": true, "Via": true, "Forwarded": true,
	"Stripe-Signature": true, "X-Hub-Signature-256": true,
	"X-Real-Ip": true, "Idempotency-Key": true, "X-Idempotency-Key": true, "Early-Data": true, "Alt-Used": true,
}

// deniedPrefixes are families of such headers.
var deniedPrefixes = []string{"Webhook-", "Proxy-", "X-Forwarded-", "Sec-"}

// checkHeader judges the headers that a webhook adds. Values never appear in a reason: they are often credentials.
func checkHeader(p *problems, name string, h http.Header) {
	count, size := 0, 0
	seen := make(map[string]bool, len(h))
	for _, key := range slices.Sorted(maps.Keys(h)) {
		at := name + "[" + quote(key) + "]"
		canonical := textproto.CanonicalMIMEHeaderKey(key)
		switch {
		case !validHeaderName(key):
			p.add(at, CodeFormat, "has a bad name, want a token of RFC 9110")
		case deniedHeader(canonical):
			p.add(at, CodeRange, "is set by the dispatcher or not allowed, want another header")
		case seen[canonical]:
			p.add(at, CodeFormat, "is there twice in different spelling, want it once")
		}
		seen[canonical] = true
		for _, v := range h[key] {
			count++
			size += len(key) + len(v)
			if len(v) > maxHeaderValue {
				p.add(at, CodeRange, "has a value of %d bytes, want at most %d", len(v), maxHeaderValue)
			}
			if strings.HasPrefix(v, sealedPrefix) {
				p.add(at, CodeFormat, "has a value that begins with %s, which is reserved", sealedPrefix)
			}
			if !validHeaderValue(v) {
				p.add(at, CodeFormat, "has a value with a control character or a space at an end, want none")
			}
		}
	}
	if count > maxHeaders {
		p.add(name, CodeRange, "has %d values, want at most %d", count, maxHeaders)
	}
	if size > maxHeaderBytes {
		p.add(name, CodeRange, "is %d bytes, want at most %d", size, maxHeaderBytes)
	}
}

func deniedHeader(canonical string) bool {
	return deniedHeaders[canonical] || slices.ContainsFunc(deniedPrefixes, func(prefix string) bool {
		return strings.HasPrefix(canonical, prefix)
	})
}

// validHeaderName reports whether s is a token (RFC 9110, section 5.6.2).
func validHeaderName(s string) bool { return word(s, 1, maxType, "!#$%&'*+-.^_`|~") }

// validHeaderValue reports whether s is a field value (RFC 9110, section 5.5) without white space at its ends.
func validHeaderValue(s string) bool {
	if s != strings.Trim(s, " \t") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
