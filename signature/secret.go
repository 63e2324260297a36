package signature

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
)

// Bounds of a secret whose whole text is the key, in bytes.
const (
	// MinSecret is the least: 16 random characters are hard to guess, fewer are not.
	MinSecret = 16
	// MaxSecret is the most.
	MaxSecret = 256
)

// textKey is a key that is the whole text of a secret: Stripe's, GitHub's and that
// of a body-only scheme. It signs in lower-case hex.
type textKey struct {
	macs *sync.Pool // of *mac, see Key
}

// parseText returns the key of a text of MinSecret to MaxSecret printable ASCII
// bytes. The error does not quote it.
//
// Spaces are printable, but not at an end, where they come from copying. A text
// with the prefix of an asymmetric key is refused: whpk_ is public, and everybody
// could sign with it; whsk_ is for v1a alone, and its receiver does not have it.
func parseText(secret string) (textKey, error) {
	if err := checkText(secret); err != nil {
		return textKey{}, err
	}
	return textKey{newMACs([]byte(secret))}, nil
}

func checkText(secret string) error {
	if len(secret) < MinSecret || len(secret) > MaxSecret {
		return fmt.Errorf("%d bytes, want %d to %d", len(secret), MinSecret, MaxSecret)
	}
	if prefix := asymmetric(secret); prefix != "" {
		return fmt.Errorf("prefix %s is that of an asymmetric key, want a shared secret", prefix)
	}
	for i := range len(secret) {
		if secret[i] < ' ' || secret[i] > '~' {
			return fmt.Errorf("byte %d is not printable ASCII", i)
		}
	}
	if secret[0] == ' ' || secret[len(secret)-1] == ' ' {
		return errors.New("a space at an end, want none")
	}
	return nil
}

// parseTexts returns the keys of a verifier.
func parseTexts(secrets []string) ([]textKey, error) {
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%w: no secrets, want at least 1", ErrVerifier)
	}
	keys := make([]textKey, len(secrets))
	err := eachSecret(secrets, func(i int, secret string) (err error) {
		keys[i], err = parseText(secret)
		return err
	})
	return keys, err
}

// eachSecret calls parse for each and reports all that are bad as ErrBadKey, by their position from 1.
func eachSecret(secrets []string, parse func(i int, secret string) error) error {
	var problems []error
	for i, secret := range secrets {
		if err := parse(i, secret); err != nil {
			problems = append(problems, fmt.Errorf("%w: secret %d of %d: %w", ErrBadKey, i+1, len(secrets), err))
		}
	}
	return errors.Join(problems...)
}

// appendBody appends the HMAC of the body.
func (k textKey) appendBody(dst, body []byte) []byte {
	m := k.macs.Get().(*mac)
	defer k.macs.Put(m)
	m.head = m.head[:0]
	return hex.AppendEncode(dst, m.of(body))
}

// appendTimed appends the HMAC of the timestamp, a full stop and the body.
func (k textKey) appendTimed(dst []byte, timestamp int64, body []byte) []byte {
	m := k.macs.Get().(*mac)
	defer k.macs.Put(m)
	m.head = strconv.AppendInt(m.head[:0], timestamp, 10)
	m.head = append(m.head, '.')
	return hex.AppendEncode(dst, m.of(body))
}

// unprintable makes what embeds it print as [secret] with fmt, whatever the verb,
// slog and encoding/json.
type unprintable struct{}

// String returns [secret].
func (unprintable) String() string { return redacted }

// GoString returns [secret].
func (unprintable) GoString() string { return redacted }

// Format prints [secret] for every verb.
func (unprintable) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue returns [secret], for log/slog.
func (unprintable) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns [secret], for encoding/json and others.
func (unprintable) MarshalText() ([]byte, error) { return []byte(redacted), nil }
