package signature

import (
	"fmt"
	"net/textproto"
	"strings"
)

// Scheme is a way to sign, as data: its text can be kept with a webhook. Make one
// with [ParseScheme]. Schemes are == if they are the same. The zero Scheme signs nothing.
type Scheme struct {
	kind   kind
	header string // canonical
}

type kind uint8

const (
	kindV1 kind = iota + 1
	kindV1a
	kindStripe
	kindBody // GitHub's too: that is its header
)

const (
	// sha256Text begins the text of a body-only scheme, whose header follows.
	sha256Text = "sha256:"

	// bodyPrefix begins the header of GitHub's and a body-only scheme.
	bodyPrefix = "sha256="

	// maxName is the most bytes of the name of a header.
	maxName = 64
)

// ParseScheme reads one of these texts:
//
//	v1                  Standard Webhooks v1, HMAC-SHA256 under a whsec_ secret
//	v1a                 Standard Webhooks v1a, Ed25519 under a whsk_ private key
//	stripe              t=<timestamp>,v1=<hex> in Stripe-Signature
//	github              sha256=<hex> in X-Hub-Signature-256
//	sha256:Header-Name  sha256=<hex> in the header of this name
//
// The name has 1 to 64 bytes and is a token of RFC 9110 in any case; it is not one that
// another scheme uses, nor Webhook- with anything behind it. ParseScheme knows nothing
// of other headers: who lets strangers choose the name refuses Host and the like, as
// for any header that strangers choose.
//
// Every other text is an [ErrBadScheme], which does not quote it.
func ParseScheme(text string) (Scheme, error) {
	switch text {
	case "v1":
		return Scheme{kindV1, HeaderSignature}, nil
	case "v1a":
		return Scheme{kindV1a, HeaderSignature}, nil
	case "stripe":
		return Scheme{kindStripe, HeaderStripe}, nil
	case "github":
		return Scheme{kindBody, HeaderGitHub}, nil
	}
	name, ok := strings.CutPrefix(text, sha256Text)
	if !ok {
		return Scheme{}, fmt.Errorf("%w: want v1, v1a, stripe, github or sha256:Header-Name", ErrBadScheme)
	}
	header, err := headerName(name)
	if err != nil {
		return Scheme{}, err
	}
	if header == HeaderGitHub {
		return Scheme{}, fmt.Errorf("%w: %s has a scheme of its own, github", ErrBadScheme, header)
	}
	return Scheme{kindBody, header}, nil
}

// String returns the text that [ParseScheme] reads, with the name of the header in
// canonical form; of the zero Scheme the empty text.
func (s Scheme) String() string {
	switch {
	case s.kind == kindV1:
		return "v1"
	case s.kind == kindV1a:
		return "v1a"
	case s.kind == kindStripe:
		return "stripe"
	case s.kind == kindBody && s.header == HeaderGitHub:
		return "github"
	case s.kind == kindBody:
		return sha256Text + s.header
	}
	return ""
}

// Header returns the canonical name of the header that the signature goes into.
// v1 and v1a share one; v1 and v1a signatures cover [HeaderID] and [HeaderTimestamp]
// as well, which the sender sets.
func (s Scheme) Header() string { return s.header }

// Accepts reports whether the scheme can sign with this secret, so that one list of
// secrets can serve several schemes: each takes those that are for it.
//
//	v1      whsec_ and what else [ParseKey] asks for; the prefix must be there
//	v1a     whsk_ as [ParsePrivateKey] reads it; whpk_ is for verifying
//	others  any MinSecret to MaxSecret bytes of printable ASCII, without spaces at
//	        its ends, that do not begin with whsk_ or whpk_: the whole text is the key
//
// A whsec_ secret is thus good for all but v1a. As v1 it is another key than as a
// whole text. But the others sign almost the same bytes with the same key: give a
// receiver that verifies one of them no secret that also signs as another.
func (s Scheme) Accepts(secret string) bool {
	_, err := s.Prepare(secret)
	return err == nil
}

// Prepare returns what signs with this secret. It does the work that is the same
// for all messages, so a sender does it once and keeps the Signer.
//
// The error is an [ErrBadKey] if the scheme does not accept the secret, and does not
// hold it; an [ErrBadScheme] of the zero Scheme.
func (s Scheme) Prepare(secret string) (Signer, error) {
	signer := Signer{scheme: s}
	var err error
	switch s.kind {
	case kindV1:
		if asymmetric(secret) == "" && !strings.HasPrefix(secret, keyPrefix) {
			return Signer{}, fmt.Errorf("%w: no prefix %s", ErrBadKey, keyPrefix)
		}
		signer.key, err = ParseKey(secret)
	case kindV1a:
		signer.private, err = ParsePrivateKey(secret)
	case kindStripe, kindBody:
		if signer.text, err = parseText(secret); err != nil {
			err = fmt.Errorf("%w: %w", ErrBadKey, err)
		}
	default:
		err = fmt.Errorf("%w: the zero Scheme", ErrBadScheme)
	}
	if err != nil {
		return Signer{}, err
	}
	return signer, nil
}

// Signer is a scheme and a secret, ready to sign: [Scheme.Prepare] makes it.
//
// A Signer prints as [secret]. Values may be copied and used by several goroutines
// at once. The zero Signer signs nothing.
type Signer struct {
	unprintable
	scheme  Scheme
	key     Key        // of v1
	private PrivateKey // of v1a
	text    textKey    // of the others
}

// Scheme returns the scheme.
func (s Signer) Scheme() Scheme { return s.scheme }

// Header returns the canonical name of the header that the signature goes into.
func (s Signer) Header() string { return s.scheme.header }

// AppendSign adds a signature to the value of its header, which dst holds and nothing
// else, and returns the longer slice. The value is empty at first. With several
// secrets, and with v1 and v1a at once, each Signer of the same Header is called in
// turn, newest first, with the same id, timestamp and body:
//
//   - v1 and v1a put a space between signatures;
//   - stripe writes t= once and a v1= for each;
//   - github and sha256 have room for one signature: to a value that is not empty they
//     add nothing, and so the first Signer, that of the newest secret, decides.
//
// The caller has checked its arguments, see [Key.Sign]; schemes that do not sign the
// id or the timestamp ignore them. Receivers take [MaxSignatures] in one header.
//
// It keeps neither dst nor body, and allocates nothing if dst has room, but for the 64
// bytes of an Ed25519 signature and, now and then, a buffer for one.
func (s Signer) AppendSign(dst []byte, id string, timestamp int64, body []byte) []byte {
	more := len(dst) > 0
	switch s.scheme.kind {
	case kindV1:
		if more {
			dst = append(dst, ' ')
		}
		return s.key.AppendSign(dst, id, timestamp, body)
	case kindV1a:
		if more {
			dst = append(dst, ' ')
		}
		dst, _ = s.private.AppendSign(dst, id, timestamp, body) // never fails: the key was parsed
		return dst
	case kindStripe:
		return s.text.appendStripe(dst, timestamp, body)
	case kindBody:
		if more {
			return dst
		}
		return s.text.appendBody(append(dst, bodyPrefix...), body)
	}
	return dst
}

// headerName returns the canonical form of the name of a header that no other scheme
// uses, but GitHub's may be meant; the error is an ErrBadScheme.
func headerName(name string) (string, error) {
	if len(name) < 1 || len(name) > maxName {
		return "", fmt.Errorf("%w: the header's name has %d bytes, want 1 to %d", ErrBadScheme, len(name), maxName)
	}
	for i := range len(name) {
		c := name[i]
		letter, digit := 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9'
		if !letter && !digit && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return "", fmt.Errorf("%w: the header's name is not a token of RFC 9110", ErrBadScheme)
		}
	}
	header := textproto.CanonicalMIMEHeaderKey(name)
	if header == HeaderStripe || strings.HasPrefix(header, "Webhook-") {
		return "", fmt.Errorf("%w: the header is that of another scheme", ErrBadScheme)
	}
	return header, nil
}
