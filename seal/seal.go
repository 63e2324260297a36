// Package seal encrypts webhook secrets where they are stored: AES-256-GCM under keys
// that the program holds and its store does not.
//
// A [Sealer] has one or more 32-byte keys. The first seals and all open, so a key is
// replaced in three steps: put the new one behind the old and start every process with
// both; then put it in front; and when [KeyID] finds nothing sealed by the old one, because
// everything was opened and sealed again, take the old one out.
//
// What is sealed is bound to something, to its webhook's ID: moved to another webhook, by
// whoever can write to the store, it does not open. A sealed value that was itself replaced
// by an older one of the same webhook does open. The length of what is sealed can be seen.
//
// Each value gets a random nonce of 96 bits. Two with the same one under one key would give
// both away; NIST SP 800-38D allows 2^32 values, after which the chance of it is still under
// 2^-32. Replace a key before: a million values a day reach that in eleven years. Nothing
// here counts them.
//
// A sealed value is a version byte, 1; the length of the key's ID in a byte; the ID; the
// nonce of 12 bytes; the ciphertext, as long as the plaintext; and the tag of 16 bytes.
// Everything in front of the nonce, and behind it what the value is bound to, is the
// additional data.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
)

// These errors can be returned when a Sealer is made or a value is opened. None holds
// anything of a key or of a plaintext.
var (
	// ErrKeys is returned when keys are absent, malformed or twice there.
	ErrKeys = errors.New("seal: bad keys")

	// ErrFormat is returned when a value was not sealed by this package, or cut off.
	ErrFormat = errors.New("seal: not a sealed value")

	// ErrUnknownKey is returned when a value was sealed with a key that the Sealer
	// does not have. It names the ID.
	ErrUnknownKey = errors.New("seal: unknown key")

	// ErrRefused is returned when a value was changed, or bound to something else, or
	// sealed with other bytes under the same key ID. Which of them, nobody can tell.
	ErrRefused = errors.New("seal: value refused")
)

const (
	version = 1

	// overhead is the nonce and the tag.
	overhead = 12 + 16
)

// Sealer seals and opens. Make one with [New]; it may be used by several goroutines at
// once. It prints as [secret]. The zero Sealer has no key: Seal and Open are an [ErrKeys].
type Sealer struct {
	unprintable
	keys []sealingKey
}

// sealingKey has its cipher in a closure, where no printer by reflection follows.
type sealingKey struct {
	id     string
	header []byte // of what it seals
	aead   func() cipher.AEAD
}

// New returns a Sealer of these keys. The first one seals. All problems
// are reported at once, as [ErrKeys].
func New(keys ...Key) (*Sealer, error) {
	if err := checkKeys(keys); err != nil {
		return nil, err
	}
	s := &Sealer{keys: make([]sealingKey, len(keys))}
	for i, key := range keys {
		block, err := aes.NewCipher(key.bytes())
		if err != nil {
			return nil, fmt.Errorf("%w: key %d of %d: %w", ErrKeys, i+1, len(keys), err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("%w: key %d of %d: %w", ErrKeys, i+1, len(keys), err)
		}
		s.keys[i] = sealingKey{
			id:     key.id,
			header: append([]byte{version, byte(len(key.id))}, key.id...),
			aead:   func() cipher.AEAD { return aead },
		}
	}
	return s, nil
}

// Seal returns the plaintext sealed with the first key and bound to these bytes, which
// are not in the result: Open needs them again. Either may be empty. It keeps and changes no
// argument, and fails only on the zero Sealer. Two results are never the same.
func (s *Sealer) Seal(plaintext, boundTo []byte) ([]byte, error) {
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("%w: there are none", ErrKeys)
	}
	key := &s.keys[0]
	dst := make([]byte, 0, len(key.header)+len(plaintext)+overhead)
	return key.aead().Seal(append(dst, key.header...), nil, plaintext, additional(key.header, boundTo)), nil
}

// Open returns the plaintext of a value that one of the keys sealed, bound to these
// bytes. It keeps and changes no argument. The error is an [ErrFormat], [ErrUnknownKey],
// [ErrRefused], or of the zero Sealer an [ErrKeys]; then there is no plaintext.
func (s *Sealer) Open(sealed, boundTo []byte) ([]byte, error) {
	if len(s.keys) == 0 {
		return nil, fmt.Errorf("%w: there are none", ErrKeys)
	}
	id, err := KeyID(sealed)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(s.keys, func(k sealingKey) bool { return k.id == id })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnknownKey, id)
	}
	key := &s.keys[i]
	plaintext, err := key.aead().Open(nil, nil, sealed[len(key.header):], additional(key.header, boundTo))
	if err != nil {
		return nil, fmt.Errorf("%w: changed, bound to something else, or key %s has other bytes", ErrRefused, id)
	}
	return plaintext, nil
}

// KeyID returns the ID of the key that sealed a value, so that what a retired key sealed
// can be found. It says only what the value claims; Open is what verifies it. The error is
// an [ErrFormat].
func KeyID(sealed []byte) (string, error) {
	if len(sealed) < 2 {
		return "", fmt.Errorf("%w: %d bytes", ErrFormat, len(sealed))
	}
	if sealed[0] != version {
		return "", fmt.Errorf("%w: version %d, want %d", ErrFormat, sealed[0], version)
	}
	end := 2 + int(sealed[1])
	if len(sealed) < end+overhead {
		return "", fmt.Errorf("%w: %d bytes, want at least %d", ErrFormat, len(sealed), end+overhead)
	}
	id := string(sealed[2:end])
	if !validID(id) {
		return "", fmt.Errorf("%w: its key ID is not 1 to %d of A-Z, a-z, 0-9, _ and -", ErrFormat, maxID)
	}
	return id, nil
}

// additional is what is authenticated with the ciphertext. The header says how long it is
// itself, so that no byte of it can pass for one of boundTo.
func additional(header, boundTo []byte) []byte {
	return slices.Concat(header, boundTo)
}
