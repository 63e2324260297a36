package postrider

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider/signature"
)

const (
	secretPrefix  = "whsec_" // marks a symmetric key of Standard Webhooks
	privatePrefix = "whsk_"  // and a private one
)

// secretBytes is the length of the keys that NewSecret makes; Standard Webhooks asks for 24 to 64.
const secretBytes = 32

// redacted is what a Secret prints as.
const redacted = "[secret]"

// Scheme names a way to sign. It is data, kept with the webhook; package signature says what each one does and which
// secrets it takes, and verifies them.
type Scheme string

// The schemes. A webhook may have several, for receivers that move from one to another: each signs with those of the
// webhook's secrets that it takes.
const (
	SchemeStandard   Scheme = "v1"     // Standard Webhooks v1: HMAC-SHA256 under a whsec_ secret, in Webhook-Signature
	SchemeAsymmetric Scheme = "v1a"    // Standard Webhooks v1a: Ed25519 under a whsk_ secret, in Webhook-Signature
	SchemeStripe     Scheme = "stripe" // t=...,v1=... in Stripe-Signature; the whole text of the secret is the key
	SchemeGitHub     Scheme = "github" // sha256=... over the body alone, in X-Hub-Signature-256; likewise
)

// SchemeBody returns the scheme that signs as SchemeGitHub does, in the header of this name.
func SchemeBody(header string) Scheme { return Scheme("sha256:" + header) }

// Secret is a signing key of a webhook. Whatever prints it prints [secret]; Reveal is the only way to its text.
type Secret struct {
	text string
	// ExpiresAt is when it stops signing; never if zero.
	ExpiresAt time.Time
}

// NewSecret returns a secret of 32 random bytes, which every scheme takes but SchemeAsymmetric.
func NewSecret() Secret {
	var key [secretBytes]byte
	_, _ = rand.Read(key[:]) // never fails: crypto/rand.Read
	return Secret{text: secretPrefix + base64.StdEncoding.EncodeToString(key[:])}
}

// NewPrivateSecret returns a new Ed25519 private key for SchemeAsymmetric. What its receiver needs is the public half:
// see signature.ParsePrivateKey.
func NewPrivateSecret() Secret {
	_, key, _ := ed25519.GenerateKey(nil) // never fails: crypto/rand
	return Secret{text: privatePrefix + base64.StdEncoding.EncodeToString(key)}
}

// newSecret returns a secret that the first scheme takes.
func newSecret(schemes []Scheme) Secret {
	if len(schemes) > 0 && schemes[0] == SchemeAsymmetric {
		return NewPrivateSecret()
	}
	return NewSecret()
}

// ParseSecret returns the secret that the text stands for: whsec_ and 24 to 75 bytes in standard base64, whsk_ and an
// Ed25519 private key, or 16 to 256 bytes of printable ASCII for the schemes whose key is the whole text. The error
// does not hold the text.
func ParseSecret(text string) (Secret, error) {
	s := Secret{text: text}
	if err := s.valid(); err != nil {
		return Secret{}, &ValidationError{Fields: []FieldError{{Name: "Secret", Reason: "is [secret], " + err.Error(), Code: CodeFormat}}}
	}
	return s, nil
}

func (s Secret) valid() (err error) {
	switch {
	case strings.HasPrefix(s.text, sealedPrefix):
		return errors.New("it begins with " + sealedPrefix + ", which is reserved")
	case s.private():
		_, err = signature.ParsePrivateKey(s.text)
	case strings.HasPrefix(s.text, secretPrefix):
		_, err = signature.ParseKey(s.text)
	default:
		_, err = scheme(SchemeGitHub).Prepare(s.text)
	}
	return err
}

// scheme returns a scheme that is known to parse.
func scheme(s Scheme) signature.Scheme {
	parsed, err := signature.ParseScheme(string(s))
	if err != nil {
		panic(err)
	}
	return parsed
}

// schemesOf returns the webhook's schemes, ready to prepare secrets. Their errors do not quote the text.
func schemesOf(w *Webhook) (list []signature.Scheme, errs []error) {
	if len(w.Schemes) == 0 {
		return []signature.Scheme{scheme(SchemeStandard)}, nil
	}
	for _, text := range w.Schemes {
		s, err := signature.ParseScheme(string(text))
		list, errs = append(list, s), append(errs, err)
	}
	return list, errs
}

// checkSchemes notes the problems of a webhook's schemes, and of its secrets with them.
func (w *Webhook) checkSchemes(p *problems) {
	if len(w.Schemes) > maxSchemes {
		p.add("Webhook.Schemes", CodeRange, "has %d schemes, want at most %d", len(w.Schemes), maxSchemes)
		return
	}
	schemes, errs := schemesOf(w)
	for i, err := range errs {
		at, header := index("Webhook.Schemes", i), schemes[i].Header()
		taken := false
		for name := range w.Header {
			taken = taken || textproto.CanonicalMIMEHeaderKey(name) == header
		}
		switch {
		case err != nil:
			p.add(at, CodeRange, "is %s, want v1, v1a, stripe, github or sha256: and the name of a header", quote(string(w.Schemes[i])))
			return
		case slices.Contains(schemes[:i], schemes[i]):
			p.add(at, CodeRange, "is %s a second time, want it once", quote(string(w.Schemes[i])))
		case strings.HasPrefix(string(w.Schemes[i]), "sha256:") && deniedHeader(header):
			p.add(at, CodeRange, "names a header that is set by the dispatcher or not allowed, want another header")
		case taken:
			p.add(at, CodeRange, "signs in a header that Webhook.Header has as well, want it in one of them")
		}
	}
	if len(w.Secrets) == 0 {
		return
	}
	for _, s := range schemes {
		if !slices.ContainsFunc(w.Secrets, func(secret Secret) bool { return accepts(schemes, s, secret.text) != "" }) {
			p.add("Webhook.Secrets", CodeRequired, "has no secret that the scheme %q takes", s.String())
		}
	}
}

// accepts returns the text with which a scheme signs for a secret, "" if it does not take it. A key without whsec_ is
// one of v1 if no other scheme takes it.
func accepts(all []signature.Scheme, s signature.Scheme, text string) string {
	if s.Accepts(text) {
		return text
	}
	others := slices.ContainsFunc(all, func(other signature.Scheme) bool { return other != s && other.Accepts(text) })
	if with := secretPrefix + text; s == scheme(SchemeStandard) && !others && s.Accepts(with) {
		return with
	}
	return ""
}

// signers sign one header.
type signers struct {
	header string // canonical
	list   []signer
}

// signer is a secret made ready to sign.
type signer struct {
	signature.Signer
	secret Secret
}

// signersOf makes the webhook's secrets ready, newest first, for each header that is signed. A secret or a scheme that
// cannot sign is an error, which does not hold it.
func signersOf(w *Webhook) (groups []signers, err error) {
	schemes, errs := schemesOf(w)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, s := range schemes {
		i := slices.IndexFunc(groups, func(g signers) bool { return g.header == s.Header() })
		if i < 0 {
			i = len(groups)
			groups = append(groups, signers{header: s.Header()})
		}
		for n, secret := range w.Secrets {
			text := accepts(schemes, s, secret.text)
			if text == "" {
				if err := secret.valid(); err != nil {
					return nil, fmt.Errorf("secret %d: %w", n, err)
				}
				continue
			}
			made, err := s.Prepare(text)
			if err != nil {
				return nil, fmt.Errorf("secret %d: %w", n, err)
			}
			groups[i].list = append(groups[i].list, signer{made, secret})
		}
	}
	return groups, nil
}

// sign returns the value of a header: a signature by each secret that is live at the time, in their order; "" if there
// is none.
func (g *signers) sign(id string, at time.Time, body []byte) string {
	var buf [maxSecrets * 96]byte // no scheme takes more for one
	dst := buf[:0]
	for i := range g.list {
		if !g.list[i].secret.Expired(at) {
			dst = g.list[i].AppendSign(dst, id, at.Unix(), body)
		}
	}
	return string(dst)
}

// signInto signs a request's headers; values is room for one value each. ok is false if one has no live secret.
func signInto(header http.Header, values []string, groups []signers, id string, at time.Time, body []byte) (ok bool) {
	for i := range groups {
		if values[i] = groups[i].sign(id, at, body); values[i] == "" {
			return false
		}
		header[groups[i].header] = values[i : i+1 : i+1]
	}
	return len(groups) > 0
}

// Reveal returns the text of the secret, to be shown once to whoever runs the receiver.
func (s Secret) Reveal() string { return s.text }

// private reports whether it is a key for SchemeAsymmetric, which no other scheme takes.
func (s Secret) private() bool { return strings.HasPrefix(s.text, privatePrefix) }

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.text == "" }

// Expired reports whether the secret no longer signs at t.
func (s Secret) Expired(t time.Time) bool { return !s.ExpiresAt.IsZero() && !t.Before(s.ExpiresAt) }

// String returns [secret].
func (s Secret) String() string { return redacted }

// GoString returns [secret].
func (s Secret) GoString() string { return redacted }

// Format prints [secret] for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue returns [secret].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns [secret], so that JSON does not hold it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
