package signature_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// FuzzHeaders checks of any text as the signature header, of each scheme, that
//
//  1. it is refused without a panic, or it holds a signature that equals one made naively;
//  2. what verifies does not with another body;
//  3. the text that a sender writes is not refused.
func FuzzHeaders(f *testing.F) {
	f.Add("", []byte{}, uint8(0))
	f.Add("@", []byte("{}"), uint8(0))
	f.Add("v1,@ v1a,@", []byte("{}"), uint8(0))
	f.Add("v1a,@", []byte(vectorBody), uint8(1))
	f.Add("v1,AAAA= v1a,@,v1,@", []byte(vectorBody), uint8(1))
	f.Add("t=1614265330,v1=@", []byte(stripeBody), uint8(2))
	f.Add("t=1614265330,v0=@,v1=@,v1=", []byte(stripeBody), uint8(2))
	f.Add("v1=@,t=1614265330,t=1614265330", []byte(stripeBody), uint8(2))
	f.Add("t=01614265330,v1=@"+strings.Repeat(",v1=@", 11), []byte(stripeBody), uint8(2))
	f.Add("sha256=@", []byte(githubBody), uint8(3))
	f.Add("sha256=@,sha256=@", []byte(githubBody), uint8(3))

	private, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(privateText, "whsk_"))
	require.NoError(f, err)
	raw := rawKey(32)

	f.Fuzz(func(t *testing.T, value string, body []byte, which uint8) {
		message := vectorID + "." + strconv.Itoa(vectorTimestamp) + "." + string(body)
		header := http.Header{signature.HeaderID: {vectorID}, signature.HeaderTimestamp: {strconv.Itoa(vectorTimestamp)}}
		var v signature.RequestVerifier
		var name, naive string
		switch which % 4 {
		case 0:
			v, name = at(t, vectorTimestamp, format(raw)), signature.HeaderSignature
			naive = strings.TrimPrefix(plain(raw, vectorID, vectorTimestamp, string(body)), "v1,")
		case 1:
			v, name = at(t, vectorTimestamp, publicText), signature.HeaderSignature
			naive = base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(message)))
		case 2:
			v, name = stripeAt(t, vectorTimestamp, stripeSecret), signature.HeaderStripe
			naive = plainHex(stripeSecret, strconv.Itoa(vectorTimestamp)+"."+string(body))
		default:
			v, name = mustBody(t, "", githubSecret), signature.HeaderGitHub
			naive = plainHex(githubSecret, string(body))
		}
		// The sign stands for the good signature, which a fuzzer does not find.
		value = strings.ReplaceAll(value, "@", naive)
		header[name] = []string{value}

		switch which % 4 {
		case 0:
			naive = "v1," + naive
		case 1:
			naive = "v1a," + naive
		case 2:
			naive = "v1=" + naive
		default:
			naive = "sha256=" + naive
		}
		if err := v.Verify(header, body); err == nil {
			require.Contains(t, value, naive)
			require.LessOrEqual(t, len(value), signature.MaxHeader)
			require.LessOrEqual(t, strings.Count(value, naive), signature.MaxSignatures)
			require.Error(t, v.Verify(header, append(body[:len(body):len(body)], 0)), "with a byte more")
			return
		}
		switch which % 4 {
		case 0, 1:
			require.NotEqual(t, naive, value)
		case 2:
			require.NotEqual(t, "t="+strconv.Itoa(vectorTimestamp)+","+naive, value)
		default:
			require.NotEqual(t, naive, value)
		}
	})
}

// FuzzSchemes checks that
//
//  1. a text that is a scheme is one that is printed and read back;
//  2. Accepts and Prepare agree; an error is an ErrBadKey or ErrBadScheme and does not hold the secret;
//  3. what is signed verifies with the receiver's half of the secret, after another one too;
//  4. it does not with another body.
func FuzzSchemes(f *testing.F) {
	for _, text := range []string{"v1", "v1a", "stripe", "github", "sha256:X-Sig", "sha256:webhook-id", "sha256:\x00"} {
		for _, secret := range []string{vectorSecret, privateText, publicText, githubSecret, "short"} {
			f.Add(text, secret, []byte("body"))
		}
	}
	f.Fuzz(func(t *testing.T, text, secret string, body []byte) {
		scheme, err := signature.ParseScheme(text)
		if err != nil {
			require.ErrorIs(t, err, signature.ErrBadScheme)
			return
		}
		again, err := signature.ParseScheme(scheme.String())
		require.NoError(t, err)
		require.Equal(t, scheme, again)
		require.Equal(t, http.CanonicalHeaderKey(scheme.Header()), scheme.Header())

		signer, err := scheme.Prepare(secret)
		require.Equal(t, err == nil, scheme.Accepts(secret))
		if err != nil {
			require.ErrorIs(t, err, signature.ErrBadKey)
			if len(secret) > 40 { // shorter ones may be among the words
				require.NotContains(t, err.Error(), secret)
			}
			return
		}
		const now = 1700000000
		header := http.Header{signature.HeaderID: {"id"}, signature.HeaderTimestamp: {strconv.Itoa(now)}}
		value := signer.AppendSign(nil, "id", now, body)
		header.Set(signer.Header(), string(signer.AppendSign(value, "id", now, body)))
		v := verifierOf(t, scheme, secret, now)
		require.NoError(t, v.Verify(header, body))
		require.ErrorIs(t, v.Verify(header, append(body[:len(body):len(body)], 0)), signature.ErrNoMatch)
	})
}

// FuzzAsymmetricKeys checks that
//
//  1. any text is a key or an ErrBadKey without the text, and never a panic;
//  2. a private key that parses is the encoding of the pair that its seed makes;
//  3. a public key that parses prints as its text;
//  4. any seed makes a key that signs as crypto/ed25519 does.
func FuzzAsymmetricKeys(f *testing.F) {
	f.Add(privateText)
	f.Add(publicText)
	f.Add("whsk_" + publicText[5:])
	f.Add("whpk_" + strings.Repeat("A", 43) + "=")
	f.Add(vectorSecret)
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := signature.ParsePrivateKey(text); err == nil {
			raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsk_"))
			require.NoError(t, err)
			require.Equal(t, ed25519.NewKeyFromSeed(raw[:32]), ed25519.PrivateKey(raw))
			require.Equal(t, "whpk_"+base64.StdEncoding.EncodeToString(raw[32:]), key.Public().String())
		} else {
			require.ErrorIs(t, err, signature.ErrBadKey)
		}
		if key, err := signature.ParsePublicKey(text); err == nil {
			again, err := signature.ParsePublicKey(key.String())
			require.NoError(t, err)
			require.Equal(t, key, again)
		} else {
			require.ErrorIs(t, err, signature.ErrBadKey)
		}

		seed := sha256.Sum256([]byte(text))
		private := ed25519.NewKeyFromSeed(seed[:])
		key, err := signature.ParsePrivateKey("whsk_" + base64.StdEncoding.EncodeToString(private))
		require.NoError(t, err)
		sig, err := key.Sign("id", 7, []byte(text))
		require.NoError(t, err)
		require.Equal(t, "v1a,"+base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte("id.7."+text))), sig)
	})
}

// verifierOf returns what a receiver has that was given its half of the secret.
func verifierOf(t testing.TB, scheme signature.Scheme, secret string, now int64) signature.RequestVerifier {
	t.Helper()
	switch scheme.String() {
	case "v1":
		return at(t, now, secret)
	case "v1a":
		key, err := signature.ParsePrivateKey(secret)
		require.NoError(t, err)
		return at(t, now, key.Public().String())
	case "stripe":
		return stripeAt(t, now, secret)
	case "github":
		return mustBody(t, "", secret)
	}
	return mustBody(t, scheme.Header(), secret)
}

// plainHex is HMAC-SHA256 in hex, with the standard library alone.
func plainHex(secret, message string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(message))
	return hex.EncodeToString(h.Sum(nil))
}
