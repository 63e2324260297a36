package signature

import (
	"crypto/hmac"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Verifier verifies requests signed as Standard Webhooks says, versions v1 and v1a.
// [NewVerifier] makes one from secrets; a literal does as well. Its methods may be
// called at once as long as nobody changes the fields.
type Verifier struct {
	// Keys are tried all on the v1 entries, so a secret can be rotated: first give
	// the receiver the new one beside the old, then the sender. None of them is zero.
	Keys []Key

	// PublicKeys are tried all on the v1a entries. One match of either version is
	// enough, so a sender can go from one to the other. There is at least one key
	// of one kind, and none of these is zero.
	PublicKeys []PublicKey

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

// NewVerifier returns a Verifier of these secrets with the default tolerance: whpk_
// texts as [ParsePublicKey] reads them, all others as [ParseKey] does. All bad secrets
// are reported, as [ErrBadKey], by their position from 1; none at all is an [ErrVerifier].
func NewVerifier(secrets ...string) (*Verifier, error) {
	v := &Verifier{}
	err := eachSecret(secrets, func(_ int, secret string) error {
		switch asymmetric(secret) {
		case privatePrefix:
			return fmt.Errorf("prefix %s is that of a private key, want %s or %s", privatePrefix, keyPrefix, publicPrefix)
		case publicPrefix:
			key, err := decodePublic(secret)
			v.PublicKeys = append(v.PublicKeys, key)
			return err
		}
		raw, err := decodeSecret(secret)
		v.Keys = append(v.Keys, newKey(raw))
		return err
	})
	if err != nil {
		return nil, err
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
// Entries of other versions than v1 and v1a are skipped. The header's keys are canonical,
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
	given, err := parseEntries(header[HeaderSignature])
	if err != nil {
		return err
	}
	if err := inTime(HeaderTimestamp, timestamp, v.Now, v.Tolerance); err != nil {
		return err
	}
	return v.match(&given, id, timestamp, body)
}

// match tries every key against every signature and does not stop at a match.
func (v *Verifier) match(given *entries, id string, timestamp int64, body []byte) error {
	matched := false
	want := make([]byte, 0, signatureLen)
	for _, key := range v.Keys {
		want = key.AppendSign(want[:0], id, timestamp, body)
		for _, sig := range given.v1 {
			if hmac.Equal(sig, want) {
				matched = true
			}
		}
	}
	if len(v.PublicKeys) > 0 && len(given.v1a) > 0 {
		message := appendMessage(make([]byte, 0, len(id)+len(body)+16), id, timestamp, body)
		for _, key := range v.PublicKeys {
			for _, sig := range given.v1a {
				if key.verifies(message, sig) {
					matched = true
				}
			}
		}
	}
	if !matched {
		return fmt.Errorf("%w: %s, v1 entries: %d, keys tried: %d, v1a entries: %d, public keys tried: %d",
			ErrNoMatch, HeaderSignature, len(given.v1), len(v.Keys), len(given.v1a), len(v.PublicKeys))
	}
	return nil
}

// check reports everything that is wrong with v itself.
func (v *Verifier) check() error {
	var problems []string
	if len(v.Keys)+len(v.PublicKeys) == 0 {
		problems = append(problems, "Keys and PublicKeys are empty, want at least 1 key")
	}
	for i, key := range v.Keys {
		if key.macs == nil {
			problems = append(problems, fmt.Sprintf("Keys[%d] is the zero Key", i))
		}
	}
	for i, key := range v.PublicKeys {
		if key == (PublicKey{}) {
			problems = append(problems, fmt.Sprintf("PublicKeys[%d] is the zero PublicKey", i))
		}
	}
	if v.Tolerance < 0 {
		problems = append(problems, negativeTolerance(v.Tolerance))
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %s", ErrVerifier, strings.Join(problems, "; "))
	}
	return nil
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

// entries are the signatures of the two versions that this package knows. They stay
// text: base64 decodes some different texts to the same bytes, and only one of them is
// what a sender writes.
type entries struct {
	v1  [][]byte // with the version in front
	v1a []string // without
}

// parseEntries reads the signature header.
//
// The specification separates entries by single spaces. A proxy may still have
// split them into lines, or joined lines with a comma, with or without a space.
// An entry is two parts, neither of which can hold a comma or a space, so every
// such form has one reading.
func parseEntries(lines []string) (found entries, err error) {
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	if size == 0 {
		return found, fmt.Errorf("%w: %s", ErrMissingHeader, HeaderSignature)
	}
	if size > MaxHeader {
		return found, fmt.Errorf("%w: %s has %d bytes, want at most %d", ErrTooLong, HeaderSignature, size, MaxHeader)
	}

	count := 0
	for _, line := range lines {
		for group := range strings.SplitSeq(line, " ") {
			for group != "" {
				var version, sig string
				version, group, _ = strings.Cut(group, ",")
				sig, group, _ = strings.Cut(group, ",")
				if count++; count > MaxSignatures {
					return entries{}, fmt.Errorf("%w: %s has more than %d entries", ErrTooMany, HeaderSignature, MaxSignatures)
				}
				switch version {
				case "v1":
					found.v1 = append(found.v1, []byte(versionPrefix+sig))
				case "v1a":
					found.v1a = append(found.v1a, sig)
				}
			}
		}
	}
	return found, nil
}
