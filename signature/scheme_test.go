package signature_test

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// GitHub's published vector.
const (
	githubSecret    = "It's a Secret to Everybody"
	githubBody      = "Hello, World!"
	githubSignature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
)

func TestSchemesRoundTrip(t *testing.T) {
	t.Parallel()
	seen := map[signature.Scheme]bool{}
	for text, want := range map[string][2]string{
		"v1":                      {"v1", "Webhook-Signature"},
		"v1a":                     {"v1a", "Webhook-Signature"},
		"stripe":                  {"stripe", "Stripe-Signature"},
		"github":                  {"github", "X-Hub-Signature-256"},
		"sha256:x-acme-signature": {"sha256:X-Acme-Signature", "X-Acme-Signature"},
		"sha256:Signature":        {"sha256:Signature", "Signature"},
	} {
		scheme, err := signature.ParseScheme(text)
		require.NoError(t, err, text)
		require.Equal(t, want, [2]string{scheme.String(), scheme.Header()})
		again, err := signature.ParseScheme(scheme.String())
		require.NoError(t, err)
		require.True(t, scheme == again)
		require.False(t, seen[scheme])
		seen[scheme] = true
	}
}

func TestParseSchemeNamesTheProblem(t *testing.T) {
	t.Parallel()
	const want = "want v1, v1a, stripe, github or sha256:Header-Name"
	for text, problem := range map[string]string{
		"":                                  want,
		"V1":                                want,
		"v1 ":                               want,
		"v2":                                want,
		"sha256":                            want,
		vectorSecret:                        want,
		"sha256:":                           "the header's name has 0 bytes, want 1 to 64",
		"sha256:" + strings.Repeat("a", 65): "the header's name has 65 bytes, want 1 to 64",
		"sha256:a b":                        "the header's name is not a token of RFC 9110",
		"sha256:a:b":                        "the header's name is not a token of RFC 9110",
		"sha256:a\r\nHost":                  "the header's name is not a token of RFC 9110",
		"sha256:Ä":                          "the header's name is not a token of RFC 9110",
		"sha256:stripe-signature":           "the header is that of another scheme",
		"sha256:webhook-signature":          "the header is that of another scheme",
		"sha256:Webhook-Anything":           "the header is that of another scheme",
		"sha256:x-hub-signature-256":        "X-Hub-Signature-256 has a scheme of its own, github",
	} {
		scheme, err := signature.ParseScheme(text)
		require.ErrorIs(t, err, signature.ErrBadScheme)
		require.EqualError(t, err, "signature: bad scheme: "+problem, text)
		require.Equal(t, signature.Scheme{}, scheme)
	}
	_, err := signature.ParseScheme("sha256:" + strings.Repeat("a", 64))
	require.NoError(t, err)
}

func TestSchemesAcceptTheirSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, secret   string
		v1, v1a, whole bool
	}{
		{"symmetric", vectorSecret, true, false, true},
		{"private", privateText, false, true, false},
		{"public", publicText, false, false, false},
		{"without prefix", vectorSecret[6:], false, false, true},
		{"GitHub's", githubSecret, false, false, true},
		{"symmetric, too short as v1", "whsec_c2hvcnRlciB0aGFu", false, false, true},
		{"empty", "", false, false, false},
		{"15 bytes", strings.Repeat("a", 15), false, false, false},
		{"16 bytes", strings.Repeat("a", 16), false, false, true},
		{"256 bytes", strings.Repeat("a", 256), false, false, true},
		{"257 bytes", strings.Repeat("a", 257), false, false, false},
		{"new line at its end", githubSecret + "\n", false, false, false},
		{"space at its end", githubSecret + " ", false, false, false},
		{"space in front", " " + githubSecret, false, false, false},
		{"not ASCII", githubSecret + "é", false, false, false},
		{"DEL", githubSecret + "\x7f", false, false, false},
		{"bad private", "whsk_" + strings.Repeat("a", 64), false, false, false},
	} {
		for text, want := range map[string]bool{
			"v1": c.v1, "v1a": c.v1a, "stripe": c.whole, "github": c.whole, "sha256:X-Sig": c.whole,
		} {
			s := mustScheme(t, text)
			require.Equal(t, want, s.Accepts(c.secret), "%s, %s", text, c.name)
			signer, err := s.Prepare(c.secret)
			require.Equal(t, want, err == nil)
			if err != nil {
				require.ErrorIs(t, err, signature.ErrBadKey)
				require.Equal(t, signature.Signer{}, signer)
				if len(c.secret) > 8 {
					require.NotContains(t, err.Error(), c.secret[6:])
				}
				continue
			}
			require.Equal(t, s, signer.Scheme())
			require.Equal(t, s.Header(), signer.Header())
		}
	}
	_, err := signature.Scheme{}.Prepare(vectorSecret)
	require.ErrorIs(t, err, signature.ErrBadScheme)
	require.False(t, signature.Scheme{}.Accepts(vectorSecret))
	require.Empty(t, signature.Scheme{}.String())
	require.Empty(t, signature.Signer{}.Header())
	require.Equal(t, "kept", string(signature.Signer{}.AppendSign([]byte("kept"), "id", 1, nil)))
}

func TestSignersMakeThePublishedSignatures(t *testing.T) {
	t.Parallel()
	for _, c := range [][4]string{
		{"v1", vectorSecret, vectorBody, vectorSignature},
		{"v1a", privateText, vectorBody, vectorSignatureA},
		{"github", githubSecret, githubBody, githubSignature},
		{"sha256:X-Sig", githubSecret, githubBody, githubSignature},
		{"stripe", stripeSecret, stripeBody, stripeSignature},
	} {
		signer := mustSigner(t, c[0], c[1])
		for range 2 {
			require.Equal(t, c[3], string(signer.AppendSign(nil, vectorID, vectorTimestamp, []byte(c[2]))), c[0])
		}
	}
}

func TestSignaturesOfOneHeaderAreJoinedByTheScheme(t *testing.T) {
	t.Parallel()
	sign := func(signers ...signature.Signer) string {
		var dst []byte
		for _, s := range signers {
			dst = s.AppendSign(dst, vectorID, vectorTimestamp, []byte(vectorBody))
		}
		return string(dst)
	}
	old, symmetric := mustSigner(t, "v1", format(rawKey(32))), mustSigner(t, "v1", vectorSecret)
	private := mustSigner(t, "v1a", privateText)
	require.Equal(t, vectorSignatureA+" "+vectorSignature+" "+sign(old), sign(private, symmetric, old))
	require.Equal(t, vectorSignature+" "+vectorSignatureA, sign(symmetric, private))

	a, b := mustSigner(t, "stripe", "the first secret"), mustSigner(t, "stripe", "the second secret")
	first, second := sign(a), sign(b)
	require.True(t, strings.HasPrefix(first, "t=1614265330,v1="))
	require.Equal(t, first+strings.TrimPrefix(second, "t=1614265330"), sign(a, b))

	for _, text := range []string{"github", "sha256:X-Sig"} {
		newest, old := mustSigner(t, text, "the newest secret"), mustSigner(t, text, "the older secret")
		require.NotEqual(t, sign(newest), sign(old))
		require.Equal(t, sign(newest), sign(newest, old))
	}
}

// A sender that changes everything at once: all schemes, two secrets of each kind.
func TestReceiversOfEveryKindVerifyOneRequest(t *testing.T) {
	t.Parallel()
	const now, id, body = 1700000000, "evt_1", `{"a":1}`
	secrets := []string{privateText, format(rawKey(32)), "a secret of the whole text", vectorSecret}
	values := map[string][]byte{}
	for _, text := range []string{"v1a", "v1", "stripe", "github", "sha256:X-Sig"} {
		scheme := mustScheme(t, text)
		for _, secret := range secrets {
			if scheme.Accepts(secret) {
				signer := mustSigner(t, text, secret)
				values[signer.Header()] = signer.AppendSign(values[signer.Header()], id, now, []byte(body))
			}
		}
	}
	header := http.Header{signature.HeaderID: {id}, signature.HeaderTimestamp: {strconv.Itoa(now)}}
	for name, value := range values {
		header.Set(name, string(value))
	}
	for _, secret := range []string{publicText, secrets[1], secrets[3]} {
		require.NoError(t, at(t, now, secret).Verify(header, []byte(body)))
	}
	for _, secret := range secrets[1:] {
		require.NoError(t, stripeAt(t, now, secret).Verify(header, []byte(body)))
	}
	v, err := signature.NewGitHubVerifier(secrets[1])
	require.NoError(t, err)
	require.NoError(t, v.Verify(header, []byte(body)))
	v, err = signature.NewBodyVerifier("x-sig", secrets[1])
	require.NoError(t, err)
	require.NoError(t, v.Verify(header, []byte(body)))
	v, err = signature.NewGitHubVerifier(secrets[2])
	require.NoError(t, err)
	require.ErrorIs(t, v.Verify(header, []byte(body)), signature.ErrNoMatch)
}

// kinds are schemes that differ in how they sign, each with a secret.
var kinds = [][2]string{{"v1", vectorSecret}, {"v1a", privateText}, {"stripe", vectorSecret}, {"github", vectorSecret}}

// Without the race detector, under which pools lose some of what they hold, it is none, and 1 for v1a.
func TestSigningAllocatesLittle(t *testing.T) {
	body, dst := bytes.Repeat([]byte("a"), 1<<10), make([]byte, 0, 256)
	for _, c := range kinds {
		signer := mustSigner(t, c[0], c[1])
		allocs := testing.AllocsPerRun(100, func() { signer.AppendSign(dst, vectorID, vectorTimestamp, body) })
		require.LessOrEqual(t, allocs, 4.0, c[0])
	}
}

func BenchmarkSigner(b *testing.B) {
	body := bytes.Repeat([]byte("a"), 1<<10)
	for _, c := range kinds {
		b.Run(c[0], func(b *testing.B) {
			signer := mustSigner(b, c[0], c[1])
			dst := make([]byte, 0, 128)
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				dst = signer.AppendSign(dst[:0], vectorID, vectorTimestamp, body)
			}
		})
	}
}

func mustScheme(t testing.TB, text string) signature.Scheme {
	t.Helper()
	scheme, err := signature.ParseScheme(text)
	require.NoError(t, err)
	return scheme
}

func mustSigner(t testing.TB, scheme, secret string) signature.Signer {
	t.Helper()
	signer, err := mustScheme(t, scheme).Prepare(secret)
	require.NoError(t, err)
	return signer
}
