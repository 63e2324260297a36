package signature

import (
	"cmp"
	"crypto/hmac"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Verifier verifies requests signed as Standard Webhooks says, version v1.
// [NewVerifier] makes one from secrets; a literal does as well. Its methods may be
// called at once as long as nobody changes the fields.
type Verifier struct {
	// Keys are tried all, so a secret can be rotated: first give the receiver the
	// new one beside the old, then the sender. At least one, none of them zero.
	Keys []Key

	// Tolerance is how far the timestamp may be from Now, in the past and in the
	// future; that far is still in time. Longer forgives worse clocks and slower
	// ways, and gives whoever records a request longer to replay it. It counts in
	// whole seconds, as the header does: a fraction is dropped. Zero means
	// [DefaultTolerance], negative is an error.
	Tolerance time.Duration

	// Now is the receiver's clock; nil means [time.Now]. To verify a request that
	// was stored, return when it was received.
	Now func() time.Time
}

// Verify verifies one request with secrets that are not used again: [NewVerifier]
// and [Verifier.Verify] in one. A server makes a Verifier once and keeps it.
func Verify(header http.Header, body []byte, secrets ...string) error {
	v, err := NewVerifier(secrets...)
	if err != nil {
		return err
	}
	return v.Verify(header, body)
}

// NewVerifier returns a Verifier of these secrets, each as [ParseKey] reads it,
// with the default tolerance. All bad secrets are reported, as [ErrBadKey], by
// their position from 1; none at all is an [ErrVerifier].
func NewVerifier(secrets ...string) (*Verifier, error) {
	v := &Verifier{}
	var problems []error
	for i, secret := range secrets {
		raw, err := decodeSecret(secret)
		if err != nil {
			problems = append(problems, fmt.Errorf("%w: secret %d of %d: %w", ErrBadKey, i+1, len(secrets), err))
			continue
		}
		v.Keys = append(v.Keys, newKey(raw))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if err := v.check(); err != nil {
		return nil, err
	}
	return v, nil
}

// Verify returns nil if one of the signatures in the header was made with one of
// the keys over this ID, timestamp and body, and the timestamp is in tolerance.
// The body is the bytes as received; neither argument is kept or changed.
//
// The first problem is the error, one of this package's, cheapest first:
// [ErrVerifier]; then of the ID, the timestamp and the signature header
// [ErrMissingHeader], [ErrRepeatedHeader], [ErrTooLong], [ErrBadID],
// [ErrBadTimestamp], [ErrTooMany]; then [ErrTooOld], [ErrTooNew]; then
// [ErrNoMatch]. Its text names the header and the bound, repeats nothing of what
// was received but numbers, and may be logged. Answer ErrVerifier with 500 and
// the others with 400 or 401.
//
// Entries of other versions than v1 are skipped. The header's keys are canonical,
// as net/http makes them; one that comes from elsewhere (a Lambda's map, say) is
// built with [http.Header.Set].
//
// How long it takes depends on the sizes of the request and the number of keys,
// not on which key or signature matches, nor on how much of one does.
func (v *Verifier) Verify(header http.Header, body []byte) error {
	if err := v.check(); err != nil {
		return err
	}
	id, err := messageID(header)
	if err != nil {
		return err
	}
	stamp, err := single(header, HeaderTimestamp)
	if err != nil {
		return err
	}
	timestamp, err := parseTimestamp(HeaderTimestamp, stamp)
	if err != nil {
		return err
	}
	given, err := signaturesV1(header[HeaderSignature])
	if err != nil {
		return err
	}
	if err := inTime(HeaderTimestamp, timestamp, v.now(), cmp.Or(v.Tolerance, DefaultTolerance)); err != nil {
		return err
	}
	return v.match(given, id, timestamp, body)
}

// match tries every key against every signature and does not stop at a match.
func (v *Verifier) match(given [][]byte, id string, timestamp int64, body []byte) error {
	matched := false
	want := make([]byte, 0, signatureLen)
	for _, key := range v.Keys {
		want = key.AppendSign(want[:0], id, timestamp, body)
		for _, sig := range given {
			if hmac.Equal(sig, want) {
				matched = true
			}
		}
	}
	if !matched {
		return fmt.Errorf("%w: %s, v1 entries: %d, keys tried: %d", ErrNoMatch, HeaderSignature, len(given), len(v.Keys))
	}
	return nil
}

// check reports everything that is wrong with v itself.
func (v *Verifier) check() error {
	var problems []string
	if len(v.Keys) == 0 {
		problems = append(problems, "Keys is empty, want at least 1")
	}
	for i, key := range v.Keys {
		if key.macs == nil {
			problems = append(problems, fmt.Sprintf("Keys[%d] is the zero Key", i))
		}
	}
	if v.Tolerance < 0 {
		problems = append(problems, fmt.Sprintf("Tolerance is %v, want 0 or more", v.Tolerance))
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %s", ErrVerifier, strings.Join(problems, "; "))
	}
	return nil
}

func (v *Verifier) now() time.Time {
	if v.Now == nil {
		return time.Now()
	}
	return v.Now()
}

// messageID returns the ID. Without the rule on full stops, "a.1" at 2 with the
// body "x" and "a" at 1 with the body "2.x" would be the same signed bytes.
func messageID(header http.Header) (string, error) {
	id, err := single(header, HeaderID)
	if err != nil {
		return "", err
	}
	if len(id) > MaxHeader {
		return "", fmt.Errorf("%w: %s has %d bytes, want at most %d", ErrTooLong, HeaderID, len(id), MaxHeader)
	}
	if strings.Contains(id, ".") {
		return "", fmt.Errorf("%w: %s contains a full stop", ErrBadID, HeaderID)
	}
	return id, nil
}

// signaturesV1 returns the v1 entries of the signature header, each with its
// version in front. They stay text: base64 decodes some different texts to the
// same bytes, and only one of them is what a sender writes.
//
// The specification separates entries by single spaces. A proxy may still have
// split them into lines, or joined lines with a comma, with or without a space.
// An entry is two parts, neither of which can hold a comma or a space, so every
// such form has one reading.
func signaturesV1(lines []string) ([][]byte, error) {
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	if size == 0 {
		return nil, fmt.Errorf("%w: %s", ErrMissingHeader, HeaderSignature)
	}
	if size > MaxHeader {
		return nil, fmt.Errorf("%w: %s has %d bytes, want at most %d", ErrTooLong, HeaderSignature, size, MaxHeader)
	}

	var found [][]byte
	entries := 0
	for _, line := range lines {
		for group := range strings.SplitSeq(line, " ") {
			for group != "" {
				var version, sig string
				version, group, _ = strings.Cut(group, ",")
				sig, group, _ = strings.Cut(group, ",")
				if entries++; entries > MaxSignatures {
					return nil, fmt.Errorf("%w: %s has more than %d entries", ErrTooMany, HeaderSignature, MaxSignatures)
				}
				if version == "v1" {
					found = append(found, []byte(versionPrefix+sig))
				}
			}
		}
	}
	return found, nil
}
