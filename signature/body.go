package signature

import (
	"crypto/hmac"
	"fmt"
	"net/http"
	"strings"
)

// BodyVerifier verifies requests whose body alone is signed: a header holds
// sha256=<lower-case hex>, HMAC-SHA256 over the body under the whole text of the secret.
// Make one with [NewGitHubVerifier] or [NewBodyVerifier]. Verify may be called at once.
//
// No time is signed, so there is no tolerance, and whoever recorded a request can send
// it again years later with any other header. Protection from that is the receiver's:
// it looks in the verified body for a timestamp and refuses old ones, or for an ID and
// refuses those it has seen; an ID in a header can have been replaced.
type BodyVerifier struct {
	header string
	keys   []textKey
}

// NewGitHubVerifier returns a verifier of what GitHub sends, and others like it, in
// [HeaderGitHub]. Several secrets are for rotation: all are tried. A secret is 16 to
// 256 bytes, see [Scheme.Accepts]. All bad ones are reported, as [ErrBadKey], by their
// position from 1; none at all is an [ErrVerifier].
func NewGitHubVerifier(secrets ...string) (*BodyVerifier, error) {
	return NewBodyVerifier(HeaderGitHub, secrets...)
}

// NewBodyVerifier is [NewGitHubVerifier] for another header, named in any case. A name that
// the scheme sha256 does not take is an [ErrBadScheme], see [ParseScheme].
func NewBodyVerifier(header string, secrets ...string) (*BodyVerifier, error) {
	name, err := headerName(header)
	if err != nil {
		return nil, err
	}
	keys, err := parseTexts(secrets)
	if err != nil {
		return nil, err
	}
	return &BodyVerifier{name, keys}, nil
}

// Verify returns nil if the header holds a signature that was made with one of the
// secrets over this body. It keeps and changes no argument.
//
// The first problem is the error, cheapest first: [ErrVerifier]; then of the header
// [ErrMissingHeader], [ErrRepeatedHeader], [ErrTooLong], [ErrMalformed]; then
// [ErrNoMatch]. There is room for one signature in the header. What was said of the text
// of errors, of canonical headers and of timing at [Verifier.Verify] holds here.
func (v *BodyVerifier) Verify(header http.Header, body []byte) error {
	if len(v.keys) == 0 {
		return fmt.Errorf("%w: no secrets, want at least 1", ErrVerifier)
	}
	value, err := single(header, v.header)
	if err != nil {
		return err
	}
	if len(value) > MaxHeader {
		return fmt.Errorf("%w: %s has %d bytes, want at most %d", ErrTooLong, v.header, len(value), MaxHeader)
	}
	text, ok := strings.CutPrefix(value, bodyPrefix)
	if !ok || len(text) != hexLen {
		return fmt.Errorf("%w: %s is not %s and %d hex digits", ErrMalformed, v.header, bodyPrefix, hexLen)
	}
	matched := false
	given, want := []byte(text), make([]byte, 0, hexLen)
	for _, key := range v.keys {
		want = key.appendBody(want[:0], body)
		if hmac.Equal(given, want) {
			matched = true
		}
	}
	if !matched {
		return fmt.Errorf("%w: %s, keys tried: %d", ErrNoMatch, v.header, len(v.keys))
	}
	return nil
}
