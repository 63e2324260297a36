package signature

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const (
	privatePrefix = "whsk_"
	publicPrefix  = "whpk_"

	// asymmetricPrefix is in front of a signature of v1a.
	asymmetricPrefix = "v1a,"
)

// asymmetricLen is the length of the base64 of an Ed25519 signature.
var asymmetricLen = base64.StdEncoding.EncodedLen(ed25519.SignatureSize)

// PrivateKey is the private key of Standard Webhooks v1a: it signs with Ed25519,
// and receivers verify with its [PublicKey]. Make one with [ParsePrivateKey] or
// [NewPrivateKey].
//
// A PrivateKey prints as [secret]. Values may be copied and used by several
// goroutines at once. The zero PrivateKey has no key and its Sign is an [ErrBadKey].
type PrivateKey struct {
	unprintable
	signer *ed25519Signer
}

// ed25519Signer signs with a key that is only in the closure, see [Key].
type ed25519Signer struct {
	sign   func(message []byte) ([]byte, error)
	public PublicKey
	buffer sync.Pool // of *[]byte: Ed25519 wants the message in one piece
}

// PublicKey is the public key of Standard Webhooks v1a: a [Verifier] verifies with
// it, and nobody can sign with it. Make one with [ParsePublicKey] or take that of a
// PrivateKey. It is no secret, but who can replace it can forge: take it from the
// sender's documentation, never from a request.
//
// Two PublicKeys are == if they are the same. A Verifier that holds the zero one
// refuses everything with [ErrVerifier].
type PublicKey struct {
	raw [ed25519.PublicKeySize]byte
}

// ParsePrivateKey reads whsk_ and the standard, padded base64 of the 64 bytes of an
// Ed25519 private key: the 32 bytes of RFC 8032, then the public key. The prefix must be there.
//
// Every error is an [ErrBadKey] and holds nothing of the key. A public half that
// does not belong to the private one is an error: signing with it can give the private one away.
func ParsePrivateKey(secret string) (PrivateKey, error) {
	text, ok := strings.CutPrefix(secret, privatePrefix)
	if !ok {
		return PrivateKey{}, fmt.Errorf("%w: no prefix %s", ErrBadKey, privatePrefix)
	}
	raw, err := decode(privatePrefix, text)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	return NewPrivateKey(ed25519.PrivateKey(raw))
}

// NewPrivateKey returns the key that is behind a crypto.Signer: an
// ed25519.PrivateKey, which it copies, or one that never leaves its device or
// service. Its Public must return an ed25519.PublicKey, otherwise the error is an
// [ErrBadKey]. The signer must be safe for use by several goroutines at once and must
// not keep the message that it is given.
func NewPrivateKey(signer crypto.Signer) (PrivateKey, error) {
	private, plain := signer.(ed25519.PrivateKey)
	switch {
	case signer == nil:
		return PrivateKey{}, fmt.Errorf("%w: no crypto.Signer", ErrBadKey)
	case plain && len(private) != ed25519.PrivateKeySize:
		return PrivateKey{}, fmt.Errorf("%w: %d bytes, want %d", ErrBadKey, len(private), ed25519.PrivateKeySize)
	case plain && !bytes.Equal(private, ed25519.NewKeyFromSeed(private.Seed())):
		return PrivateKey{}, fmt.Errorf("%w: the public half does not belong to the private one", ErrBadKey)
	case plain:
		signer = slices.Clone(private)
	}
	raw, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return PrivateKey{}, fmt.Errorf("%w: it is of the kind %T, want ed25519.PublicKey", ErrBadKey, signer.Public())
	}
	public, err := newPublicKey(raw)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	return PrivateKey{signer: &ed25519Signer{
		sign:   func(message []byte) ([]byte, error) { return signer.Sign(rand.Reader, message, crypto.Hash(0)) },
		public: public,
		buffer: sync.Pool{New: func() any { return new([]byte) }},
	}}, nil
}

// ParsePublicKey reads whpk_ and the standard, padded base64 of the 32 bytes of an
// Ed25519 public key. The prefix must be there. Every error is an [ErrBadKey].
func ParsePublicKey(text string) (PublicKey, error) {
	key, err := decodePublic(text)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	return key, nil
}

// String returns the text that [ParsePublicKey] reads, to be given to receivers.
func (k PublicKey) String() string {
	return publicPrefix + base64.StdEncoding.EncodeToString(k.raw[:])
}

// Public returns the key that receivers verify with; the zero PublicKey if k is zero.
func (k PrivateKey) Public() PublicKey {
	if k.signer == nil {
		return PublicKey{}
	}
	return k.signer.public
}

// Sign returns a signature as it stands in [HeaderSignature]: v1a, a comma and the
// padded base64 of the Ed25519 signature, 92 bytes. The bytes that are signed and what
// the caller has checked are those of [Key.Sign].
//
// It fails only if the crypto.Signer does; a key that was parsed does not fail.
func (k PrivateKey) Sign(id string, timestamp int64, body []byte) (string, error) {
	dst, err := k.AppendSign(make([]byte, 0, len(asymmetricPrefix)+asymmetricLen), id, timestamp, body)
	return string(dst), err
}

// AppendSign appends what [PrivateKey.Sign] returns to dst and returns the longer
// slice, or dst unchanged with an error. It keeps neither dst nor body.
func (k PrivateKey) AppendSign(dst []byte, id string, timestamp int64, body []byte) ([]byte, error) {
	if k.signer == nil {
		return dst, fmt.Errorf("%w: the zero PrivateKey", ErrBadKey)
	}
	buffer := k.signer.buffer.Get().(*[]byte)
	defer k.signer.buffer.Put(buffer)
	*buffer = appendMessage((*buffer)[:0], id, timestamp, body)

	sig, err := k.signer.sign(*buffer)
	if err != nil {
		return dst, fmt.Errorf("signature: sign: %w", err)
	}
	if len(sig) != ed25519.SignatureSize {
		return dst, fmt.Errorf("signature: sign: %d bytes, want %d", len(sig), ed25519.SignatureSize)
	}
	dst = append(dst, asymmetricPrefix...)
	return base64.StdEncoding.AppendEncode(dst, sig), nil
}

// appendMessage appends the bytes that are signed, see [Key.Sign].
func appendMessage(dst []byte, id string, timestamp int64, body []byte) []byte {
	dst = append(dst, id...)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, timestamp, 10)
	dst = append(dst, '.')
	return append(dst, body...)
}

func decodePublic(text string) (PublicKey, error) {
	encoded, ok := strings.CutPrefix(text, publicPrefix)
	if !ok {
		return PublicKey{}, fmt.Errorf("no prefix %s", publicPrefix)
	}
	raw, err := decode(publicPrefix, encoded)
	if err != nil {
		return PublicKey{}, err
	}
	return newPublicKey(raw)
}

// newPublicKey refuses the zero key, under which anybody can sign.
func newPublicKey(raw []byte) (key PublicKey, err error) {
	if len(raw) != ed25519.PublicKeySize {
		return key, fmt.Errorf("%d bytes, want %d", len(raw), ed25519.PublicKeySize)
	}
	if key.raw = [ed25519.PublicKeySize]byte(raw); key == (PublicKey{}) {
		return key, errors.New("all bytes are zero")
	}
	return key, nil
}

// verifies reports whether the text is a signature over the message. It takes one
// text for each signature: base64 of the right length, so that nothing in it was
// skipped, and without stray bits.
func (k PublicKey) verifies(message []byte, text string) bool {
	if len(text) != asymmetricLen {
		return false
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(text)
	return err == nil && len(sig) == ed25519.SignatureSize && ed25519.Verify(k.raw[:], message, sig)
}

// asymmetric returns the prefix if the text has that of a private or a public key.
func asymmetric(text string) string {
	for _, prefix := range []string{privatePrefix, publicPrefix} {
		if strings.HasPrefix(text, prefix) {
			return prefix
		}
	}
	return ""
}
