package signature_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// FuzzVerify checks that
//
//  1. what Sign signed verifies, unless the ID or the timestamp is malformed, and
//     then the error says which;
//  2. with any one bit of ID, timestamp, signature or body changed it does not;
//  3. any text as a header is refused without a panic, and beside a good signature
//     it does no harm within the bounds.
func FuzzVerify(f *testing.F) {
	f.Add([]byte("seed"), vectorID, int64(vectorTimestamp), []byte(vectorBody), uint(0), "v1a,AAAA= v1,BBBB=")
	f.Add([]byte(""), "a.b", int64(0), []byte{}, uint(77), "v1")
	f.Add([]byte{0}, "", int64(-1), []byte{0xff}, uint(300), ",,, ,v1,v1 v1,")
	f.Add([]byte("x"), "id", int64(1<<40), []byte("2.x"), uint(1<<31), strings.Repeat("v1,x ", 11))
	f.Add([]byte("y"), strings.Repeat("i", 4097), int64(1<<40+1), []byte("y"), uint(5), strings.Repeat("a", 4097))

	f.Fuzz(func(t *testing.T, seed []byte, id string, timestamp int64, body []byte, bit uint, junk string) {
		raw := sha256.Sum256(seed)
		v := at(t, timestamp, format(raw[:]))
		header := sign(v.Keys[0], id, timestamp, string(body))
		sig := header.Get(signature.HeaderSignature)
		require.Equal(t, plain(raw[:], id, timestamp, string(body)), sig)

		err := v.Verify(header, body)
		switch {
		case id == "":
			require.ErrorIs(t, err, signature.ErrMissingHeader)
		case len(id) > signature.MaxHeader:
			require.ErrorIs(t, err, signature.ErrTooLong)
		case strings.Contains(id, "."):
			require.ErrorIs(t, err, signature.ErrBadID)
		case timestamp <= 0 || timestamp > 1<<40:
			require.ErrorIs(t, err, signature.ErrBadTimestamp)
		default:
			require.NoError(t, err)
		}
		good := err == nil

		fields := [4]string{id, strconv.FormatInt(timestamp, 10), sig, string(body)}
		total := uint(8 * len(strings.Join(fields[:], "")))
		pos := bit % total
		for i := range fields {
			if size := uint(8 * len(fields[i])); pos >= size {
				pos -= size
				continue
			}
			fields[i] = flip(fields[i], int(pos))
			break
		}
		require.Error(t, v.Verify(http.Header{
			signature.HeaderID:        {fields[0]},
			signature.HeaderTimestamp: {fields[1]},
			signature.HeaderSignature: {fields[2]},
		}, []byte(fields[3])))

		for _, name := range []string{signature.HeaderID, signature.HeaderTimestamp, signature.HeaderSignature} {
			random := header.Clone()
			random.Set(name, junk)
			if junk != header.Get(name) && !strings.Contains(junk, sig) {
				require.Error(t, v.Verify(random, body), "junk in %s", name)
			}
		}
		if !good {
			return
		}
		for _, lines := range [][]string{{junk + " " + sig}, {sig + " " + junk}, {junk, sig}} {
			mixed := header.Clone()
			mixed[signature.HeaderSignature] = lines
			err := v.Verify(mixed, body)
			if len(strings.Join(lines, "")) > signature.MaxHeader {
				require.ErrorIs(t, err, signature.ErrTooLong)
			} else if strings.Count(junk, ",")+strings.Count(junk, " ")+2 > signature.MaxSignatures && err != nil {
				require.ErrorIs(t, err, signature.ErrTooMany)
			} else {
				require.NoError(t, err)
			}
		}
	})
}

// keyError is every text that ParseKey can fail with: nothing in it but numbers
// comes from the secret.
var keyError = regexp.MustCompile(`^signature: bad key: (` +
	`[0-9]+ bytes, want 24 to 75|` +
	`prefix wh[sp]k_ is that of an asymmetric key, want whsec_|` +
	`white space in it, want none|` +
	`not standard, padded base64 after whsec_: illegal base64 data at input byte [0-9]+)$`)

// FuzzParseKey checks that
//
//  1. any text is a key or an ErrBadKey whose text has none of it;
//  2. a key that parses is the decoded bytes, of a length in bounds;
//  3. any bytes of a length in bounds survive being formatted and parsed.
func FuzzParseKey(f *testing.F) {
	f.Add(vectorSecret)
	f.Add(vectorSecret[6:])
	f.Add(vectorSecret + "\n")
	f.Add("whsk_" + vectorSecret[6:])
	f.Add("whsec_whsec_")
	f.Add("")
	f.Add(format(rawKey(75)))
	f.Add(format(rawKey(76)))

	f.Fuzz(func(t *testing.T, secret string) {
		if key, err := signature.ParseKey(secret); err != nil {
			require.ErrorIs(t, err, signature.ErrBadKey)
			require.Regexp(t, keyError, err.Error())
			require.Equal(t, signature.Key{}, key)
		} else {
			raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
			require.NoError(t, err)
			require.True(t, len(raw) >= 24 && len(raw) <= 75, "%d bytes", len(raw))
			require.Equal(t, plain(raw, "id", 1, "body"), key.Sign("id", 1, []byte("body")))
		}

		raw := []byte(secret)
		key, err := signature.ParseKey(format(raw))
		require.Equal(t, len(raw) >= 24 && len(raw) <= 75, err == nil, "%d bytes", len(raw))
		made, errNew := signature.NewKey(raw)
		require.Equal(t, len(raw) >= 24 && len(raw) <= 64, errNew == nil, "%d bytes", len(raw))
		if err == nil {
			require.Equal(t, plain(raw, "id", 1, ""), key.Sign("id", 1, nil))
		}
		if errNew == nil {
			require.Equal(t, plain(raw, "id", 1, ""), made.Sign("id", 1, nil))
		}
	})
}
