package seal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/seal"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	t.Parallel()
	s := mustNew(t, key("a", 1))
	for _, plaintext := range []string{"", "x", secret, strings.Repeat("long", 1<<16)} {
		for _, boundTo := range []string{"", "wh_1", strings.Repeat("b", 300)} {
			sealed, err := s.Seal([]byte(plaintext), []byte(boundTo))
			require.NoError(t, err)
			require.Len(t, sealed, 2+1+12+len(plaintext)+16)
			if len(plaintext) > 4 {
				require.NotContains(t, string(sealed), plaintext[:5])
			}
			got, err := s.Open(sealed, []byte(boundTo))
			require.NoError(t, err)
			require.Equal(t, plaintext, string(got))
		}
	}
}

func TestSealNeverRepeatsItself(t *testing.T) {
	t.Parallel()
	s := mustNew(t, key("a", 1))
	seen := map[string]bool{}
	for range 1000 {
		sealed := mustSeal(t, s, secret, "wh_1")
		require.False(t, seen[string(sealed)])
		seen[string(sealed)] = true
	}
}

// The format is fixed: a value that an earlier release sealed must open for ever.
func TestOpensWhatVersion1Sealed(t *testing.T) {
	t.Parallel()
	sealed, err := hex.DecodeString(golden)
	require.NoError(t, err)
	got, err := mustNew(t, key("2026-a", 7)).Open(sealed, []byte("wh_1"))
	require.NoError(t, err)
	require.Equal(t, secret, string(got))
}

// golden was made with another library of AES-GCM, and the nonce 00 to 0b.
const golden = "0106323032362d61000102030405060708090a0b6fe99a157e56942f3ce3dceeda1f27a3904ee2f9" +
	"723727752e872fead49e0237920e0a83c4b853899c78fab92283d7c7f00e31998eac"

func TestKeysAreReplaced(t *testing.T) {
	t.Parallel()
	old := mustSeal(t, mustNew(t, key("old", 1)), secret, "wh_1")
	for _, s := range []*seal.Sealer{mustNew(t, key("old", 1), key("new", 2)), mustNew(t, key("new", 2), key("old", 1))} {
		got, err := s.Open(old, []byte("wh_1"))
		require.NoError(t, err)
		require.Equal(t, secret, string(got))
	}

	both := mustNew(t, key("new", 2), key("old", 1))
	sealed := mustSeal(t, both, secret, "wh_1")
	id, err := seal.KeyID(sealed)
	require.NoError(t, err)
	require.Equal(t, "new", id)
	id, err = seal.KeyID(old)
	require.NoError(t, err)
	require.Equal(t, "old", id)

	alone := mustNew(t, key("new", 2))
	_, err = alone.Open(sealed, []byte("wh_1"))
	require.NoError(t, err)
	_, err = alone.Open(old, []byte("wh_1"))
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	require.EqualError(t, err, "seal: unknown key: old")
}

func TestOpenRefusesWhatIsBoundToSomethingElse(t *testing.T) {
	t.Parallel()
	s := mustNew(t, key("a", 1))
	sealed := mustSeal(t, s, secret, "wh_1")
	for _, boundTo := range []string{"", "wh_2", "wh_", "wh_11", "\x01\x01awh_1"} {
		got, err := s.Open(sealed, []byte(boundTo))
		require.ErrorIs(t, err, seal.ErrRefused)
		require.Nil(t, got)
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	t.Parallel()
	s := mustNew(t, key("a", 1), key("c", 2), key("aa", 3))
	sealed := mustSeal(t, s, secret, "wh_1")
	for bit := range 8 * len(sealed) {
		changed := bytes.Clone(sealed)
		changed[bit/8] ^= 1 << (bit % 8)
		got, err := s.Open(changed, []byte("wh_1"))
		require.Error(t, err, "bit %d", bit)
		require.Nil(t, got)
		require.NotContains(t, err.Error(), secret[:8])
	}
	for size := range sealed {
		_, err := s.Open(sealed[:size], []byte("wh_1"))
		require.Error(t, err, "cut to %d bytes", size)
	}
	_, err := s.Open(append(sealed, 0), []byte("wh_1"))
	require.ErrorIs(t, err, seal.ErrRefused)
}

// Under the same bytes the ciphertext alone would open.
func TestKeyIDIsAuthenticated(t *testing.T) {
	t.Parallel()
	sealed := mustSeal(t, mustNew(t, key("a", 1)), secret, "wh_1")
	sealed[2] = 'b'
	_, err := mustNew(t, key("b", 1)).Open(sealed, []byte("wh_1"))
	require.ErrorIs(t, err, seal.ErrRefused)
	require.EqualError(t, err, "seal: value refused: changed, bound to something else, or key b has other bytes")
}

func TestOpenNamesWhatIsNoSealedValue(t *testing.T) {
	t.Parallel()
	s := mustNew(t, key("a", 1))
	tail := strings.Repeat("t", 28)
	for value, want := range map[string]string{
		"":                     "0 bytes",
		"\x01":                 "1 bytes",
		secret:                 "version 119, want 1",
		"\x02\x01a" + tail:     "version 2, want 1",
		"\x01\x01a" + tail[1:]: "30 bytes, want at least 31",
		"\x01\xffa" + tail:     "31 bytes, want at least 285",
		"\x01\x00" + tail:      "its key ID is not 1 to 32 of A-Z, a-z, 0-9, _ and -",
		"\x01\x01\n" + tail:    "its key ID is not 1 to 32 of A-Z, a-z, 0-9, _ and -",
		"\x01\x21" + strings.Repeat("a", 33) + tail: "its key ID is not 1 to 32 of A-Z, a-z, 0-9, _ and -",
	} {
		_, err := s.Open([]byte(value), nil)
		require.ErrorIs(t, err, seal.ErrFormat)
		require.EqualError(t, err, "seal: not a sealed value: "+want)
	}
}

func TestNewReportsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := seal.New()
	require.EqualError(t, err, "seal: bad keys: there are none, want at least 1")
	zero32 := make([]byte, 32)
	_, err = seal.New(key("a", 1), seal.NewKey("a", zero32), seal.NewKey("é", zero32[:16]), key("b", 1), seal.Key{})
	require.ErrorIs(t, err, seal.ErrKeys)
	require.EqualError(t, err, "seal: bad keys: key 2 of 5 is all zero: nothing filled it; "+
		"key 2 of 5 has the ID of key 1; "+
		"the ID of key 3 of 5 has 2 bytes, want 1 to 32 of A-Z, a-z, 0-9, _ and -; key 3 of 5 has 16 bytes, want 32; "+
		"key 4 of 5 has the bytes of key 1; "+
		"the ID of key 5 of 5 has 0 bytes, want 1 to 32 of A-Z, a-z, 0-9, _ and -; key 5 of 5 has 0 bytes, want 32")
	for _, id := range []string{"", strings.Repeat("a", 33), "a.b", "a b", "@", "[", "`", "{"} {
		_, err := seal.New(key(id, 1))
		require.ErrorIs(t, err, seal.ErrKeys, id)
	}
	_, err = seal.New(key("Az09_-"+strings.Repeat("a", 26), 1))
	require.NoError(t, err)

	var zero seal.Sealer
	_, err = zero.Seal(nil, nil)
	require.ErrorIs(t, err, seal.ErrKeys)
	_, err = zero.Open(nil, nil)
	require.ErrorIs(t, err, seal.ErrKeys)
}

func TestArgumentsStayTheCallers(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte{1}, seal.KeySize)
	k := seal.NewKey("a", raw)
	clear(raw)
	s := mustNew(t, k)
	plaintext, boundTo := []byte(secret), append(make([]byte, 0, 100), "wh_1"...)
	sealed, err := s.Seal(plaintext, boundTo)
	require.NoError(t, err)
	clear(plaintext)
	before := bytes.Clone(sealed)
	got, err := s.Open(sealed, boundTo)
	require.NoError(t, err)
	require.Equal(t, secret, string(got))
	require.Equal(t, before, sealed)
	require.Equal(t, make([]byte, 90), boundTo[4:94])
	clear(sealed)
	require.Equal(t, secret, string(got))
}

func TestKeysNeverPrint(t *testing.T) {
	t.Parallel()
	k := key("a", 0xab)
	s := mustNew(t, k)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t"} {
		require.Equal(t, "[secret]", fmt.Sprintf(verb, k))
		require.Equal(t, "[secret]", fmt.Sprintf(verb, &k))
		require.Equal(t, "[secret]", fmt.Sprintf(verb, s))
	}
	require.Equal(t, "[[secret]]", fmt.Sprint([]seal.Key{k}))
	// Here fmt asks no method: the verb %p, and unexported fields.
	for _, text := range []string{
		fmt.Sprintf("%p", k), fmt.Sprintf("%p", []seal.Key{k}), fmt.Sprintf("%+v", struct{ k seal.Key }{k}),
		fmt.Sprintf("%x", struct{ k []seal.Key }{[]seal.Key{k}}), fmt.Sprintf("%#v", struct{ s *seal.Sealer }{s}),
	} {
		require.NotContains(t, text, "171 171")
		require.NotContains(t, text, "abab")
		require.NotContains(t, text, "0xab, 0xab")
	}
	var logs bytes.Buffer
	slog.New(slog.NewJSONHandler(&logs, nil)).Info("keys", "key", k, "sealer", s, "all", []seal.Key{k})
	require.Equal(t, 3, strings.Count(logs.String(), "[secret]"))
	asJSON, err := json.Marshal([]any{k, s})
	require.NoError(t, err)
	require.Equal(t, `["[secret]","[secret]"]`, string(asJSON))

	// This printer ignores methods and follows pointers.
	var diff recorder
	require.Equal(&diff, []any{s, k}, nil)
	require.NotContains(t, diff.String(), "ab ab")
	require.NotContains(t, diff.String(), "0xab, 0xab")
}

func TestSealerIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	s := mustNew(t, key("a", 1), key("b", 2))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				want := fmt.Sprintf("%d of %d", i, g)
				sealed, err := s.Seal([]byte(want), []byte("wh_1"))
				if err == nil {
					var got []byte
					if got, err = s.Open(sealed, []byte("wh_1")); string(got) == want {
						continue
					}
				}
				t.Errorf("goroutine %d, value %d: %v", g, i, err)
				return
			}
		})
	}
	wg.Wait()
}

// FuzzOpen checks that
//
//  1. any value is refused with one of the package's errors and without a panic;
//  2. any plaintext comes back, bound to what it was bound to and to nothing else.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(nil), []byte("wh_1"), []byte("wh_2"))
	f.Add([]byte(secret), []byte(""), []byte("\x01\x01a"))
	f.Add([]byte("\x01\x01a"+strings.Repeat("t", 40)), []byte("wh_1"), []byte("wh_1"))
	s := mustNew(f, key("a", 1))
	f.Fuzz(func(t *testing.T, value, boundTo, other []byte) {
		_, err := s.Open(value, boundTo)
		require.Error(t, err)
		if id, errID := seal.KeyID(value); errID != nil {
			require.ErrorIs(t, err, seal.ErrFormat)
		} else if id == "a" {
			require.ErrorIs(t, err, seal.ErrRefused)
		} else {
			require.ErrorIs(t, err, seal.ErrUnknownKey)
		}

		sealed, err := s.Seal(value, boundTo)
		require.NoError(t, err)
		got, err := s.Open(sealed, boundTo)
		require.NoError(t, err)
		require.True(t, bytes.Equal(value, got))
		if !bytes.Equal(boundTo, other) {
			_, err = s.Open(sealed, other)
			require.ErrorIs(t, err, seal.ErrRefused)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	s := mustNew(b, key("a", 1))
	sealed := mustSeal(b, s, secret, "wh_1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(sealed, []byte("wh_1")); err != nil {
			b.Fatal(err)
		}
	}
}

// recorder is a failing test that only keeps its message.
type recorder struct{ strings.Builder }

func (r *recorder) Errorf(format string, args ...any) { fmt.Fprintf(r, format, args...) }
func (r *recorder) FailNow()                          {}

func key(id string, b byte) seal.Key {
	return seal.NewKey(id, bytes.Repeat([]byte{b}, seal.KeySize))
}

func mustNew(t testing.TB, keys ...seal.Key) *seal.Sealer {
	t.Helper()
	s, err := seal.New(keys...)
	require.NoError(t, err)
	return s
}

func mustSeal(t testing.TB, s *seal.Sealer, plaintext, boundTo string) []byte {
	t.Helper()
	sealed, err := s.Seal([]byte(plaintext), []byte(boundTo))
	require.NoError(t, err)
	return sealed
}
