package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Bounds of a symmetric key, in bytes after decoding.
const (
	// MinKey is the least that the specification allows: 192 bits.
	MinKey = 24

	// MaxKey is the most that the specification allows: 512 bits, the block of
	// SHA-256. A longer key is hashed first and is no stronger. [ParseKey] takes
	// up to 75 bytes all the same, see there.
	MaxKey = 64

	// maxParsedKey is what Svix takes when its users import a key of their own.
	// Such keys are in use, and their holders cannot change them to please us.
	maxParsedKey = 75
)

const (
	keyPrefix     = "whsec_"
	versionPrefix = "v1,"

	// redacted stands for a Key wherever one is printed.
	redacted = "[secret]"
)

// signatureLen is the length of a signature: v1, a comma and padded base64.
var signatureLen = len(versionPrefix) + base64.StdEncoding.EncodedLen(sha256.Size)

// Key is a symmetric key of Standard Webhooks v1: it signs, and a [Verifier]
// verifies with it. Make one with [ParseKey] or [NewKey].
//
// A Key prints as [secret] with fmt, slog and encoding/json, and the secret cannot
// be had back from it: what is marshalled is not the key. Values may be copied and
// used by several goroutines at once; copies share what makes signing cheap. Two
// Keys of one secret are not ==.
//
// The zero Key has no secret. It signs with the empty text, which no verifier
// accepts, and a Verifier that holds one refuses everything with [ErrVerifier].
type Key struct {
	// macs holds *mac. The secret itself is only in the closure that is its New
	// and in the states of the pool, where no printer by reflection follows, not
	// even one that ignores methods and looks behind pointers.
	macs *sync.Pool
}

// mac is what one signature needs. It serves one goroutine at a time.
type mac struct {
	hash hash.Hash
	head []byte
	sum  []byte
}

// ParseKey reads a key from its text: whsec_ and standard, padded base64. The
// prefix may be absent, since some products show secrets without it.
//
// The key has [MinKey] to 75 bytes. That is more than [MaxKey], because Svix
// lets its users import keys of that size and receivers move from there.
//
// Every error is an [ErrBadKey] and names the problem and the bound, never the
// secret. White space is a problem: a secret read from a file often ends in a
// new line, and it is better trimmed by whoever reads it than ignored here.
func ParseKey(secret string) (Key, error) {
	raw, err := decodeSecret(secret)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	return newKey(raw), nil
}

// NewKey returns the key of these bytes, which it copies. It wants [MinKey] to
// [MaxKey] of them, made by crypto/rand; otherwise the error is an [ErrBadKey].
func NewKey(raw []byte) (Key, error) {
	if err := checkLen(raw, MaxKey); err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	return newKey(slices.Clone(raw)), nil
}

// Sign returns a signature as it stands in [HeaderSignature]: v1, a comma and the
// padded base64 of HMAC-SHA256, 47 bytes. Several signatures in one header are
// separated by single spaces.
//
// These bytes are signed, and no others (Standard Webhooks 1.0.0, "Signature scheme"):
//
//	id         as in the header Webhook-Id
//	'.'        0x2e
//	timestamp  as in the header Webhook-Timestamp: Unix seconds, decimal, no leading zero
//	'.'        0x2e
//	body       as sent, whatever its encoding; may be empty
//
// The caller has checked its arguments. An id with a full stop would let two
// different messages have one signature, and [Verifier.Verify] refuses it, as it
// does an empty id and a timestamp that is not from 1 to 1<<40.
//
// The zero Key returns the empty text.
func (k Key) Sign(id string, timestamp int64, body []byte) string {
	return string(k.AppendSign(make([]byte, 0, signatureLen), id, timestamp, body))
}

// AppendSign appends what [Key.Sign] returns to dst and returns the longer slice.
// It allocates nothing if dst has room. It keeps neither dst nor body.
// The zero Key returns dst unchanged.
func (k Key) AppendSign(dst []byte, id string, timestamp int64, body []byte) []byte {
	if k.macs == nil {
		return dst
	}
	m := k.macs.Get().(*mac)
	defer k.macs.Put(m)

	m.head = append(m.head[:0], id...)
	m.head = append(m.head, '.')
	m.head = strconv.AppendInt(m.head, timestamp, 10)
	m.head = append(m.head, '.')

	dst = append(dst, versionPrefix...)
	return base64.StdEncoding.AppendEncode(dst, m.of(body))
}

// String returns [secret]. It never tells the key.
func (k Key) String() string { return redacted }

// GoString returns [secret], for the verb %#v.
func (k Key) GoString() string { return redacted }

// LogValue returns [secret], for log/slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns [secret], for encoding/json and others. A Key cannot be
// stored this way: keep the text that [ParseKey] reads.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// newKey owns raw.
func newKey(raw []byte) Key { return Key{macs: newMACs(raw)} }

// newMACs returns a pool of *mac under this key, which it owns.
func newMACs(raw []byte) *sync.Pool {
	return &sync.Pool{New: func() any {
		return &mac{hash: hmac.New(sha256.New, raw)}
	}}
}

// of returns the HMAC of m.head and then the body, which is m's until the next call.
func (m *mac) of(body []byte) []byte {
	// Reset comes first and not last: after the first one the hash restores its
	// state with the key worked in, which saves two of its blocks every time.
	m.hash.Reset()
	m.hash.Write(m.head)
	m.hash.Write(body)
	m.sum = m.hash.Sum(m.sum[:0])
	return m.sum
}

// decodeSecret returns the bytes of a key, or an error that does not quote it.
func decodeSecret(secret string) ([]byte, error) {
	if prefix := asymmetric(secret); prefix != "" {
		return nil, fmt.Errorf("prefix %s is that of an asymmetric key, want %s", prefix, keyPrefix)
	}
	raw, err := decode(keyPrefix, strings.TrimPrefix(secret, keyPrefix))
	if err != nil {
		return nil, err
	}
	if err := checkLen(raw, maxParsedKey); err != nil {
		return nil, err
	}
	return raw, nil
}

// decode returns the bytes of what follows the prefix, or an error that does not quote it.
func decode(prefix, text string) ([]byte, error) {
	// The decoder would skip line ends and call other white space illegal data.
	if strings.ContainsAny(text, " \t\r\n") {
		return nil, errors.New("white space in it, want none")
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		// The decoder's error holds a position and nothing of the text.
		return nil, fmt.Errorf("not standard, padded base64 after %s: %w", prefix, err)
	}
	return raw, nil
}

func checkLen(raw []byte, most int) error {
	if len(raw) < MinKey || len(raw) > most {
		return fmt.Errorf("%d bytes, want %d to %d", len(raw), MinKey, most)
	}
	return nil
}
