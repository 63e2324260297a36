package signature_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

func TestBodyVerifies(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]*signature.BodyVerifier{
		"X-Hub-Signature-256": mustBody(t, "", githubSecret),
		"X-Acme-Signature":    mustBody(t, "x-acme-signature", "another secret of it", githubSecret),
	} {
		header := http.Header{name: {githubSignature}}
		require.NoError(t, v.Verify(header, []byte(githubBody)))
		require.ErrorIs(t, v.Verify(header, nil), signature.ErrNoMatch)
		require.ErrorIs(t, v.Verify(http.Header{"Other": {githubSignature}}, []byte(githubBody)), signature.ErrMissingHeader)
	}
}

func TestBodyNamesTheReason(t *testing.T) {
	t.Parallel()
	v := mustBody(t, "", githubSecret)
	malformed := "malformed header: X-Hub-Signature-256 is not sha256= and 64 hex digits"
	for value, c := range map[string]struct {
		reason error
		text   string
	}{
		"":                              {signature.ErrMissingHeader, "missing header: X-Hub-Signature-256"},
		"sha256=":                       {signature.ErrMalformed, malformed},
		githubSignature[7:]:             {signature.ErrMalformed, malformed},
		"sha1" + githubSignature:        {signature.ErrMalformed, malformed},
		githubSignature + "0":           {signature.ErrMalformed, malformed},
		githubSignature + ",":           {signature.ErrMalformed, malformed},
		strings.Repeat("a", 4096):       {signature.ErrMalformed, malformed},
		strings.Repeat("a", 4097):       {signature.ErrTooLong, "header too long: X-Hub-Signature-256 has 4097 bytes"},
		"SHA256=" + githubSignature[7:]: {signature.ErrMalformed, malformed},
		"sha256=" + strings.ToUpper(githubSignature[7:]): {signature.ErrNoMatch, "signature: X-Hub-Signature-256"},
		"sha256=" + strings.Repeat("0", 64):              {signature.ErrNoMatch, "keys tried: 1"},
	} {
		err := v.Verify(http.Header{signature.HeaderGitHub: {value}}, []byte(githubBody))
		require.ErrorIs(t, err, c.reason, value)
		require.ErrorContains(t, err, c.text)
		require.True(t, strings.HasPrefix(err.Error(), "signature: "))
	}
	twice := http.Header{signature.HeaderGitHub: {githubSignature, githubSignature}}
	require.ErrorIs(t, v.Verify(twice, []byte(githubBody)), signature.ErrRepeatedHeader)
}

func TestEveryFlippedBitOfGitHubIsRefused(t *testing.T) {
	t.Parallel()
	v := mustBody(t, "", githubSecret)
	for bit := range 8 * len(githubSignature) {
		header := http.Header{signature.HeaderGitHub: {flip(githubSignature, bit)}}
		require.Error(t, v.Verify(header, []byte(githubBody)), "bit %d", bit)
	}
	header := http.Header{signature.HeaderGitHub: {githubSignature}}
	for bit := range 8 * len(githubBody) {
		require.ErrorIs(t, v.Verify(header, []byte(flip(githubBody, bit))), signature.ErrNoMatch)
	}
	require.ErrorIs(t, mustBody(t, "", githubSecret+"!").Verify(header, []byte(githubBody)), signature.ErrNoMatch)
}

func TestUnusableBodyVerifierVerifiesNothing(t *testing.T) {
	t.Parallel()
	header := http.Header{signature.HeaderGitHub: {githubSignature}, "": {githubSignature}}
	require.ErrorIs(t, new(signature.BodyVerifier).Verify(header, []byte(githubBody)), signature.ErrVerifier)
	_, err := signature.NewGitHubVerifier()
	require.ErrorIs(t, err, signature.ErrVerifier)
	_, err = signature.NewGitHubVerifier("short")
	require.EqualError(t, err, "signature: bad key: secret 1 of 1: 5 bytes, want 16 to 256")
	_, err = signature.NewBodyVerifier("Webhook-Id", githubSecret)
	require.ErrorIs(t, err, signature.ErrBadScheme)
}

// mustBody returns GitHub's verifier if there is no header.
func mustBody(t testing.TB, header string, secrets ...string) *signature.BodyVerifier {
	t.Helper()
	v, err := signature.NewGitHubVerifier(secrets...)
	if header != "" {
		v, err = signature.NewBodyVerifier(header, secrets...)
	}
	require.NoError(t, err)
	return v
}
