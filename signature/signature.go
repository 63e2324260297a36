// Package signature signs webhooks and verifies them where they are received.
//
// A receiver makes a verifier of its secrets at start and puts its handler behind a
// [Middleware]. One that reads the body itself gives each request to [Verifier.Verify]
// before anything else, together with the bytes of the body as they arrived: a body
// that was parsed and printed again is seldom the same bytes.
//
// A webhook that verifies is genuine and recent, and it can still come twice: a
// sender repeats what it believes lost, with a new timestamp and the same ID. Keep
// the value of [HeaderID] for as long as the sender retries and skip what has been
// seen. Against somebody who recorded a request, twice the tolerance is enough.
//
// A [Scheme] is a way to sign; a sender prepares a [Signer] of it from each secret.
//
//	scheme         header               signed bytes       key            verified by
//	v1             Webhook-Signature    id.timestamp.body  whsec_         Verifier
//	v1a            Webhook-Signature    id.timestamp.body  whsk_, whpk_   Verifier
//	stripe         Stripe-Signature     timestamp.body     the text       StripeVerifier
//	github         X-Hub-Signature-256  body               the text       BodyVerifier
//	sha256:Header  Header               body               the text       BodyVerifier
//
// v1 and v1a are Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks,
// spec 1.0.0), HMAC-SHA256 with a shared secret and Ed25519: prefer them. The others are
// for receivers that know them already. They do not sign the ID, and the last two no time
// either, so that a recorded request is genuine for ever: there the receiver must find in
// the body, which is signed, what tells it that a request is old or was seen before.
//
// The package uses the standard library alone. No error and no printed value
// contains a secret or the signature that was expected.
package signature

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// The headers of Standard Webhooks, in the canonical form that net/http keeps
// them in. On the wire their case does not matter.
const (
	// HeaderID carries the ID of the message, the same in every attempt.
	HeaderID = "Webhook-Id"
	// HeaderTimestamp carries when this attempt was signed, in decimal Unix seconds.
	HeaderTimestamp = "Webhook-Timestamp"
	// HeaderSignature carries one or more signatures, separated by single spaces.
	HeaderSignature = "Webhook-Signature"
)

// The headers of the other schemes, in canonical form.
const (
	// HeaderStripe carries t=, the Unix seconds, and one or more v1= signatures.
	HeaderStripe = "Stripe-Signature"
	// HeaderGitHub carries sha256= and one signature.
	HeaderGitHub = "X-Hub-Signature-256"
)

// Limits of verification.
const (
	// DefaultTolerance is how far a timestamp may be from the receiver's clock,
	// in the past and in the future. The official libraries use the same.
	DefaultTolerance = 5 * time.Minute

	// MaxSignatures is the most entries that the signature header may have, of
	// known and unknown versions together. More are refused, not cut off: which
	// signatures count must not depend on their order.
	MaxSignatures = 10

	// MaxHeader is the most bytes that a signature header may have, all its
	// lines together, and also the most bytes of the ID.
	MaxHeader = 4096

	// maxTimestamp is in the year 36812. As milliseconds it was passed in 2004, so
	// a sender that confuses the units gets the clearer error; and arithmetic with
	// timestamps stays far from overflow.
	maxTimestamp = 1 << 40
)

// These errors can be returned when a key or a [Verifier] is made or is unusable.
// They are the fault of the program that verifies, not of the request.
var (
	// ErrBadKey is returned when a secret is not a key: not base64, or of a
	// length out of bounds.
	ErrBadKey = errors.New("signature: bad key")

	// ErrBadScheme is returned when a text names no scheme, and by the zero Scheme.
	ErrBadScheme = errors.New("signature: bad scheme")

	// ErrVerifier is returned when a verifier has no keys, a zero key or a
	// negative Tolerance. It verifies nothing.
	ErrVerifier = errors.New("signature: unusable verifier")
)

// These errors can be returned when the headers of a request are malformed.
var (
	// ErrMissingHeader is returned when a header of the scheme is absent or empty.
	ErrMissingHeader = errors.New("signature: missing header")

	// ErrRepeatedHeader is returned when a header comes twice that has one value,
	// as all have but HeaderSignature, even with the same value: the handler might
	// read another one than was verified.
	ErrRepeatedHeader = errors.New("signature: repeated header")

	// ErrTooLong is returned when the ID or the signature header has more than
	// MaxHeader bytes.
	ErrTooLong = errors.New("signature: header too long")

	// ErrTooMany is returned when the signature header has more than
	// MaxSignatures entries.
	ErrTooMany = errors.New("signature: too many signatures")

	// ErrMalformed is returned when a signature header other than HeaderSignature
	// does not have the form of its scheme.
	ErrMalformed = errors.New("signature: malformed header")

	// ErrBadID is returned when the ID contains a full stop.
	ErrBadID = errors.New("signature: bad id")

	// ErrBadTimestamp is returned when the timestamp is not a plain decimal
	// number from 1 to 1<<40. A sign, a leading zero and a fraction are refused.
	ErrBadTimestamp = errors.New("signature: bad timestamp")
)

// These errors can be returned when the headers are well formed.
var (
	// ErrTooOld is returned when the timestamp is further in the past than the
	// tolerance: a replay, a slow queue in between, or a wrong clock.
	ErrTooOld = errors.New("signature: timestamp too old")

	// ErrTooNew is returned when the timestamp is further in the future than the
	// tolerance.
	ErrTooNew = errors.New("signature: timestamp too new")

	// ErrNoMatch is returned when no signature was made with one of the keys over
	// this ID, timestamp and body: another secret, or bytes that were changed.
	ErrNoMatch = errors.New("signature: no matching signature")
)

// single returns the value of a header that must be there once.
func single(header http.Header, name string) (string, error) {
	values := header[name]
	if len(values) > 1 {
		return "", fmt.Errorf("%w: %s has %d values, want 1", ErrRepeatedHeader, name, len(values))
	}
	if len(values) == 0 || values[0] == "" {
		return "", fmt.Errorf("%w: %s", ErrMissingHeader, name)
	}
	return values[0], nil
}

// parseTimestamp reads Unix seconds. It takes only the form that strconv writes,
// so that signing the number signs the very bytes that were received.
// The name is that of the header, for the error.
func parseTimestamp(name, value string) (int64, error) {
	timestamp, err := strconv.ParseInt(value, 10, 64)
	if err != nil || timestamp <= 0 || timestamp > maxTimestamp || strconv.FormatInt(timestamp, 10) != value {
		return 0, fmt.Errorf("%w: %s is not a decimal number of seconds from 1 to %d",
			ErrBadTimestamp, name, int64(maxTimestamp))
	}
	return timestamp, nil
}

// inTime says why a timestamp is out of the tolerance, or nil. A nil clock and no
// tolerance stand for the defaults.
//
// It counts whole seconds. The sender's clock was cut to seconds too, and with
// fractions the past edge would depend on when in the second a request arrives.
func inTime(name string, timestamp int64, clock func() time.Time, tolerance time.Duration) error {
	if clock == nil {
		clock = time.Now
	}
	age, limit := clock().Unix()-timestamp, int64(cmp.Or(tolerance, DefaultTolerance)/time.Second)
	if age > limit {
		return fmt.Errorf("%w: %s is %d s in the past, want at most %d s", ErrTooOld, name, age, limit)
	}
	if age < -limit {
		return fmt.Errorf("%w: %s is %d s in the future, want at most %d s", ErrTooNew, name, -age, limit)
	}
	return nil
}

func negativeTolerance(tolerance time.Duration) string {
	return fmt.Sprintf("Tolerance is %v, want 0 or more", tolerance)
}
