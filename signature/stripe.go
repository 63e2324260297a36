package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// hexLen is the length of a signature in hex.
const hexLen = 2 * sha256.Size

// stripeVersion stands in front of each signature that Stripe makes.
const stripeVersion = "v1"

// StripeVerifier verifies requests signed as Stripe signs: the header
// [HeaderStripe] holds t=<timestamp>,v1=<hex>, HMAC-SHA256 over the timestamp, a
// full stop and the body, under the whole text of the secret, prefix and all. Make
// one with [NewStripeVerifier]. Verify may be called at once as long as nobody changes
// the fields.
//
// The ID of a message is not signed, unless it is in the body: take it from there.
type StripeVerifier struct {
	// Tolerance and Now are as those of [Verifier].
	Tolerance time.Duration
	Now       func() time.Time

	keys []textKey
}

// NewStripeVerifier returns a verifier of these secrets, with the default tolerance.
// Several are for rotation: all are tried. A secret is 16 to 256 bytes, see
// [Scheme.Accepts]. All bad ones are reported, as [ErrBadKey], by their position from
// 1; none at all is an [ErrVerifier].
func NewStripeVerifier(secrets ...string) (*StripeVerifier, error) {
	keys, err := parseTexts(secrets)
	if err != nil {
		return nil, err
	}
	return &StripeVerifier{keys: keys}, nil
}

// Verify returns nil if one of the v1 signatures in the header was made with one of
// the secrets over this timestamp and body, and the timestamp is in tolerance. It keeps
// and changes no argument.
//
// The first problem is the error, cheapest first: [ErrVerifier]; then of the header
// [ErrMissingHeader], [ErrRepeatedHeader], [ErrTooLong], [ErrMalformed], [ErrTooMany],
// [ErrBadTimestamp]; then [ErrTooOld], [ErrTooNew]; then [ErrNoMatch]. What was said of
// the text of errors, of canonical headers and of timing at [Verifier.Verify] holds here.
func (v *StripeVerifier) Verify(header http.Header, body []byte) error {
	if len(v.keys) == 0 {
		return fmt.Errorf("%w: no secrets, want at least 1", ErrVerifier)
	}
	if v.Tolerance < 0 {
		return fmt.Errorf("%w: %s", ErrVerifier, negativeTolerance(v.Tolerance))
	}
	value, err := single(header, HeaderStripe)
	if err != nil {
		return err
	}
	timestamp, given, err := parseStripe(value)
	if err != nil {
		return err
	}
	if err := inTime(HeaderStripe, timestamp, v.Now, v.Tolerance); err != nil {
		return err
	}
	matched := false
	want := make([]byte, 0, hexLen)
	for _, key := range v.keys {
		want = key.appendTimed(want[:0], timestamp, body)
		for _, sig := range given {
			if hmac.Equal(sig, want) {
				matched = true
			}
		}
	}
	if !matched {
		return fmt.Errorf("%w: %s, v1 entries: %d, keys tried: %d", ErrNoMatch, HeaderStripe, len(given), len(v.keys))
	}
	return nil
}

// appendStripe adds a signature to the value of the header that dst holds.
func (k textKey) appendStripe(dst []byte, timestamp int64, body []byte) []byte {
	if len(dst) == 0 {
		dst = append(dst, "t="...)
		dst = strconv.AppendInt(dst, timestamp, 10)
	}
	dst = append(dst, ","+stripeVersion+"="...)
	return k.appendTimed(dst, timestamp, body)
}

// parseStripe returns the timestamp and the v1 entries of the header. They stay text,
// so that upper-case hex, which nobody writes, is not a second form of a signature.
// Entries of other versions are skipped; Stripe sends v0 for its test events.
func parseStripe(value string) (timestamp int64, given [][]byte, err error) {
	if len(value) > MaxHeader {
		return 0, nil, fmt.Errorf("%w: %s has %d bytes, want at most %d", ErrTooLong, HeaderStripe, len(value), MaxHeader)
	}
	stamp, stamps, count := "", 0, 0
	for entry := range strings.SplitSeq(value, ",") {
		name, text, ok := strings.Cut(entry, "=")
		if !ok {
			return 0, nil, fmt.Errorf("%w: %s has an entry without =", ErrMalformed, HeaderStripe)
		}
		if name == "t" {
			stamp = text
			stamps++
			continue
		}
		if count++; count > MaxSignatures {
			return 0, nil, fmt.Errorf("%w: %s has more than %d entries", ErrTooMany, HeaderStripe, MaxSignatures)
		}
		if name == stripeVersion {
			given = append(given, []byte(text))
		}
	}
	if stamps != 1 {
		return 0, nil, fmt.Errorf("%w: %s has %d entries t=, want 1", ErrMalformed, HeaderStripe, stamps)
	}
	timestamp, err = parseTimestamp(HeaderStripe, stamp)
	return timestamp, given, err
}
