package signature_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// The vector of the official libraries, libraries/go/webhook_test.go.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTimestamp = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestSignMakesThePublishedSignature(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{vectorSecret, strings.TrimPrefix(vectorSecret, "whsec_")} {
		key, err := signature.ParseKey(secret)
		require.NoError(t, err)
		require.Equal(t, vectorSignature, key.Sign(vectorID, vectorTimestamp, []byte(vectorBody)))
		// Again, with the hash state that the first signature left behind.
		require.Equal(t, vectorSignature, key.Sign(vectorID, vectorTimestamp, []byte(vectorBody)))
	}
}

func TestSignMatchesAPlainHMAC(t *testing.T) {
	t.Parallel()
	for _, size := range []int{signature.MinKey, 32, 63, signature.MaxKey, 65, 75} {
		raw := rawKey(size)
		key, err := signature.ParseKey(format(raw))
		require.NoError(t, err)
		for _, body := range []string{"", "x", strings.Repeat("body", 1000)} {
			require.Equal(t, plain(raw, "id", 1, body), key.Sign("id", 1, []byte(body)), "key of %d bytes", size)
		}
	}
}

func TestAppendSignKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	key := mustKey(t, vectorSecret)
	got := key.AppendSign([]byte("v1,old "), vectorID, vectorTimestamp, []byte(vectorBody))
	require.Equal(t, "v1,old "+vectorSignature, string(got))
}

func TestNewKeyCopiesItsBytes(t *testing.T) {
	t.Parallel()
	raw := rawKey(32)
	key, err := signature.NewKey(raw)
	require.NoError(t, err)
	want := plain(raw, "id", 1, "body")
	clear(raw)
	require.Equal(t, want, key.Sign("id", 1, []byte("body")))
}

func TestKeyLengthBounds(t *testing.T) {
	t.Parallel()
	for size := range 130 {
		_, err := signature.NewKey(rawKey(size))
		if size >= 24 && size <= 64 {
			require.NoError(t, err, "%d bytes", size)
		} else {
			require.ErrorIs(t, err, signature.ErrBadKey, "%d bytes", size)
			require.EqualError(t, err, fmt.Sprintf("signature: bad key: %d bytes, want 24 to 64", size))
		}
		_, err = signature.ParseKey(format(rawKey(size)))
		if size >= 24 && size <= 75 {
			require.NoError(t, err, "%d bytes", size)
		} else {
			require.ErrorIs(t, err, signature.ErrBadKey, "%d bytes", size)
			require.EqualError(t, err, fmt.Sprintf("signature: bad key: %d bytes, want 24 to 75", size))
		}
	}
}

func TestParseKeyNamesTheProblem(t *testing.T) {
	t.Parallel()
	const encoded = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	for name, c := range map[string]struct{ secret, want string }{
		"empty":           {"", "0 bytes, want 24 to 75"},
		"prefix alone":    {"whsec_", "0 bytes, want 24 to 75"},
		"prefix twice":    {"whsec_whsec_" + encoded, "illegal base64 data at input byte 5"},
		"prefix in caps":  {"WHSEC_" + encoded, "illegal base64 data at input byte 5"},
		"private key":     {"whsk_" + encoded, "prefix whsk_ is that of an asymmetric key, want whsec_"},
		"public key":      {"whpk_" + encoded, "prefix whpk_ is that of an asymmetric key, want whsec_"},
		"new line":        {"whsec_" + encoded + "\n", "white space in it, want none"},
		"carriage return": {"whsec_" + encoded[:4] + "\r" + encoded[4:], "white space in it, want none"},
		"space in front":  {" whsec_" + encoded, "white space in it, want none"},
		"tab":             {"whsec_\t" + encoded, "white space in it, want none"},
		"not padded":      {"whsec_" + encoded + "AA", "illegal base64 data at input byte 32"},
		"URL alphabet":    {"whsec_-_" + encoded + "AA", "illegal base64 data at input byte 0"},
		"not text":        {"whsec_\x00\xff" + encoded, "illegal base64 data at input byte 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := signature.ParseKey(c.secret)
			require.ErrorIs(t, err, signature.ErrBadKey)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), encoded)
			require.Equal(t, signature.Key{}, key)
		})
	}
}

func TestZeroKeySignsNothing(t *testing.T) {
	t.Parallel()
	var key signature.Key
	require.Empty(t, key.Sign("id", 1, []byte("body")))
	require.Equal(t, "kept", string(key.AppendSign([]byte("kept"), "id", 1, nil)))
}

func TestKeyNeverPrintsItsSecret(t *testing.T) {
	t.Parallel()
	key := mustKey(t, vectorSecret)
	key.Sign("id", 1, nil) // there is a hash state in the pool

	var logs bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
		slog.New(h).Info("key", "value", key, "pointer", &key, "keys", []signature.Key{key}, "struct", struct{ K signature.Key }{key})
	}
	asJSON, err := json.Marshal(map[signature.Key]any{key: []any{key, &key, struct{ K signature.Key }{key}}})
	require.NoError(t, err)
	require.JSONEq(t, `{"[secret]": ["[secret]", "[secret]", {"K": "[secret]"}]}`, string(asJSON))
	asXML, err := xml.Marshal(key)
	require.NoError(t, err)

	printed := []string{logs.String(), string(asXML)}
	verifier := &signature.Verifier{Keys: []signature.Key{key}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%p", "%T"} {
		printed = append(printed,
			fmt.Sprintf(verb, key), fmt.Sprintf(verb, &key), fmt.Sprintf(verb, []signature.Key{key}),
			// Of an unexported field fmt calls no methods.
			fmt.Sprintf(verb, struct{ k signature.Key }{key}), fmt.Sprintf(verb, struct{ k *signature.Key }{&key}),
			fmt.Sprintf(verb, verifier))
	}
	// This printer ignores methods and follows pointers, unexported ones too.
	var diff recorder
	require.Equal(&diff, verifier, struct{ k signature.Key }{key})
	printed = append(printed, diff.String())

	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(vectorSecret, "whsec_"))
	require.NoError(t, err)
	for _, text := range printed {
		low := strings.ToLower(text)
		require.NotContains(t, text, vectorSecret[6:])
		require.NotContains(t, text, string(raw[:4]))
		require.NotContains(t, low, hex.EncodeToString(raw[:4]))
		require.NotContains(t, low, "0x31, 0xf2")
		require.NotContains(t, text, "49 242 144")
	}
	for _, text := range []string{fmt.Sprint(key), fmt.Sprintf("%+v", key), fmt.Sprintf("%#v", key), key.LogValue().String()} {
		require.Equal(t, "[secret]", text)
	}
	require.Contains(t, logs.String(), "value=[secret] pointer=[secret]")
}

func TestCopiesOfAKeySignAtOnce(t *testing.T) {
	t.Parallel()
	raw := rawKey(32)
	key, err := signature.NewKey(raw)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			mine := key
			for i := range int64(200) {
				body := strings.Repeat(strconv.Itoa(g), int(i))
				id := "id_" + strconv.Itoa(g)
				if got, want := mine.Sign(id, i, []byte(body)), plain(raw, id, i, body); got != want {
					t.Errorf("goroutine %d, signature %d: got %s, want %s", g, i, got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkAppendSign(b *testing.B) {
	key, err := signature.ParseKey(vectorSecret)
	require.NoError(b, err)
	body := bytes.Repeat([]byte("a"), 1<<10)
	dst := make([]byte, 0, 64)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		dst = key.AppendSign(dst[:0], vectorID, vectorTimestamp, body)
	}
}

// BenchmarkPlainHMAC is the yardstick: the same signature written the short way,
// with fmt and a new hash each time, as the official library does.
func BenchmarkPlainHMAC(b *testing.B) {
	raw := rawKey(24)
	body := strings.Repeat("a", 1<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		plain(raw, vectorID, vectorTimestamp, body)
	}
}

// recorder is a failing test that only keeps its message.
type recorder struct{ strings.Builder }

func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(r, format, args...) }
func (r *recorder) FailNow()                          {}

// plain signs with the standard library alone, as the specification words it.
func plain(raw []byte, id string, timestamp int64, body string) string {
	h := hmac.New(sha256.New, raw)
	fmt.Fprintf(h, "%s.%d.%s", id, timestamp, body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func rawKey(size int) []byte {
	raw := make([]byte, size)
	for i := range raw {
		raw[i] = byte(i*7 + size)
	}
	return raw
}

func format(raw []byte) string { return "whsec_" + base64.StdEncoding.EncodeToString(raw) }

func mustKey(t testing.TB, secret string) signature.Key {
	t.Helper()
	key, err := signature.ParseKey(secret)
	require.NoError(t, err)
	return key
}
