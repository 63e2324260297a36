package postrider

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"time"

	"github.com/postrider/postrider/signature"
)

// secretPrefix marks a symmetric key of Standard Webhooks.
const secretPrefix = "whsec_"

// secretBytes is the length of the keys that NewSecret makes; Standard Webhooks asks for 24 to 64.
const secretBytes = 32

// redacted is what a Secret prints as.
const redacted = "[secret]"

// Scheme names a way to sign. It is data, kept with the webhook.
type Scheme string

// SchemeStandard is Standard Webhooks v1: HMAC-SHA256 under a whsec_ key, in the header Webhook-Signature.
const SchemeStandard Scheme = "v1"

// Secret is a signing key of a webhook. Whatever prints it prints [secret]; Reveal is the only way to its text.
type Secret struct {
	text string
	// ExpiresAt is when it stops signing; never if zero.
	ExpiresAt time.Time
}

// NewSecret returns a secret of 32 random bytes, for Standard Webhooks.
func NewSecret() Secret {
	var key [secretBytes]byte
	_, _ = rand.Read(key[:]) // never fails: crypto/rand.Read
	return Secret{text: secretPrefix + base64.StdEncoding.EncodeToString(key[:])}
}

// ParseSecret returns the secret that the text stands for: whsec_ and 24 to 75 bytes in standard base64. The error
// does not hold the text.
func ParseSecret(text string) (Secret, error) {
	s := Secret{text: text}
	if err := s.valid(); err != nil {
		return Secret{}, &ValidationError{Fields: []FieldError{{Name: "Secret", Reason: "is [secret], " + err.Error(), Code: CodeFormat}}}
	}
	return s, nil
}

func (s Secret) valid() error {
	_, err := signature.ParseKey(s.text)
	return err
}

// Reveal returns the text of the secret, to be shown once to whoever runs the receiver.
func (s Secret) Reveal() string { return s.text }

// liveKey is a secret made ready to sign.
type liveKey struct {
	key    signature.Key
	secret Secret
}

// liveKeys makes the secrets ready. A secret that cannot sign is an error, which does not hold it.
func liveKeys(secrets []Secret) ([]liveKey, error) {
	keys := make([]liveKey, len(secrets))
	for i, s := range secrets {
		key, err := signature.ParseKey(s.text)
		if err != nil {
			return nil, fmt.Errorf("secret %d: %w", i, err)
		}
		keys[i] = liveKey{key, s}
	}
	return keys, nil
}

// sign returns the value of Webhook-Signature: a signature by each secret that is live at the time, in their order,
// with spaces between; "" if there is none.
func sign(keys []liveKey, id string, at time.Time, body []byte) string {
	var buf [maxSecrets * 48]byte // a v1 signature has 47 bytes
	dst := buf[:0]
	for i := range keys {
		if keys[i].secret.Expired(at) {
			continue
		}
		if len(dst) > 0 {
			dst = append(dst, ' ')
		}
		dst = keys[i].key.AppendSign(dst, id, at.Unix(), body)
	}
	return string(dst)
}

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
