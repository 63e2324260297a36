package seal

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// maxID is the most bytes of a key's ID.
const maxID = 32

// redacted stands for a Key or a Sealer wherever one is printed.
const redacted = "[secret]"

// Key is one key of a [Sealer]. Make one with [NewKey].
//
// It prints as [secret] with fmt, slog and encoding/json. Where they cannot ask it, as in
// an unexported field of another struct, they still do not find its bytes.
type Key struct {
	unprintable
	id string
	// raw returns the bytes. A field with the bytes themselves would be printed by %p, by
	// printers that ignore methods, and with every struct that has a Key unexported.
	raw func() []byte
}

// NewKey returns the key of these bytes, which it copies: [KeySize] of them, made by
// crypto/rand or a key service, not a passphrase. The ID stands in every value that the
// key seals, where it can be read: 1 to 32 of A-Z, a-z, 0-9, _ and -. Other bytes need
// another ID, never one that was used.
//
// What is wrong with a key [New] reports, together with what is wrong with the others.
func NewKey(id string, raw []byte) Key {
	raw = bytes.Clone(raw)
	return Key{id: id, raw: func() []byte { return raw }}
}

// bytes returns the key's own bytes; none of the zero Key.
func (k Key) bytes() []byte {
	if k.raw == nil {
		return nil
	}
	return k.raw()
}

func checkKeys(keys []Key) error {
	var problems []string
	report := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if len(keys) == 0 {
		report("there are none, want at least 1")
	}
	for i, key := range keys {
		if !validID(key.id) {
			report("the ID of key %d of %d has %d bytes, want 1 to %d of A-Z, a-z, 0-9, _ and -",
				i+1, len(keys), len(key.id), maxID)
		}
		raw := key.bytes()
		switch {
		case len(raw) != KeySize:
			report("key %d of %d has %d bytes, want %d", i+1, len(keys), len(raw), KeySize)
		case bytes.Equal(raw, make([]byte, KeySize)):
			report("key %d of %d is all zero: nothing filled it", i+1, len(keys))
		}
		for j, earlier := range keys[:i] {
			if key.id == earlier.id {
				report("key %d of %d has the ID of key %d", i+1, len(keys), j+1)
			}
			if bytes.Equal(raw, earlier.bytes()) {
				report("key %d of %d has the bytes of key %d", i+1, len(keys), j+1)
			}
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %s", ErrKeys, strings.Join(problems, "; "))
	}
	return nil
}

func validID(id string) bool {
	if len(id) < 1 || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		letter, digit := 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9'
		if !letter && !digit && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// unprintable makes what embeds it print as [secret].
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
