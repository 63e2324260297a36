package signature_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// The vector of v1a: id, timestamp and body are those of v1.
const (
	privateText      = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
	publicText       = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
	vectorSignatureA = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)

func TestPrivateKeyMakesThePublishedSignature(t *testing.T) {
	t.Parallel()
	key, err := signature.ParsePrivateKey(privateText)
	require.NoError(t, err)
	require.Equal(t, publicText, key.Public().String())
	for range 2 { // again, with the buffer that the first one left behind
		sig, err := key.Sign(vectorID, vectorTimestamp, []byte(vectorBody))
		require.NoError(t, err)
		require.Equal(t, vectorSignatureA, sig)
	}
	dst, err := key.AppendSign([]byte("v1,x "), vectorID, vectorTimestamp, []byte(vectorBody))
	require.NoError(t, err)
	require.Equal(t, "v1,x "+vectorSignatureA, string(dst))
}

func TestPublicKeyVerifiesThePublishedSignature(t *testing.T) {
	t.Parallel()
	require.NoError(t, at(t, vectorTimestamp, publicText).Verify(headerA(), []byte(vectorBody)))
	require.NoError(t, at(t, vectorTimestamp, publicText, vectorSecret).Verify(headerA(), []byte(vectorBody)))
	require.NoError(t, at(t, vectorTimestamp, publicText, vectorSecret).Verify(vectorHeader(), []byte(vectorBody)))

	require.ErrorIs(t, at(t, vectorTimestamp, vectorSecret).Verify(headerA(), []byte(vectorBody)), signature.ErrNoMatch)
	require.ErrorIs(t, at(t, vectorTimestamp+301, publicText).Verify(headerA(), []byte(vectorBody)), signature.ErrTooOld)
	require.ErrorIs(t, at(t, vectorTimestamp-301, publicText).Verify(headerA(), []byte(vectorBody)), signature.ErrTooNew)
	require.EqualError(t, at(t, vectorTimestamp, publicText).Verify(vectorHeader(), []byte(vectorBody)),
		"signature: no matching signature: Webhook-Signature, v1 entries: 1, keys tried: 0, "+
			"v1a entries: 0, public keys tried: 1")

	other, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	wrong := "whpk_" + base64.StdEncoding.EncodeToString(other)
	require.ErrorIs(t, at(t, vectorTimestamp, wrong).Verify(headerA(), []byte(vectorBody)), signature.ErrNoMatch)
	require.NoError(t, at(t, vectorTimestamp, wrong, publicText).Verify(headerA(), []byte(vectorBody)))
}

func TestEveryFlippedBitOfV1aIsRefused(t *testing.T) {
	t.Parallel()
	v := at(t, vectorTimestamp, publicText, vectorSecret)
	fields := [4]string{vectorID, strconv.Itoa(vectorTimestamp), vectorSignatureA, vectorBody}
	for f, field := range fields {
		for bit := range 8 * len(field) {
			changed := fields
			changed[f] = flip(field, bit)
			header := http.Header{
				signature.HeaderID:        {changed[0]},
				signature.HeaderTimestamp: {changed[1]},
				signature.HeaderSignature: {changed[2]},
			}
			require.Error(t, v.Verify(header, []byte(changed[3])), "bit %d of field %d", bit, f)
		}
	}
}

func TestOneTextForEachSignatureOfV1a(t *testing.T) {
	t.Parallel()
	v := at(t, vectorTimestamp, publicText)
	for name, sig := range map[string]string{
		"not padded":    strings.TrimSuffix(vectorSignatureA, "="),
		"padded more":   vectorSignatureA + "=",
		"stray bits":    strings.Replace(vectorSignatureA, "BAg==", "BAh==", 1),
		"line end":      strings.Replace(vectorSignatureA, "BAg==", "BAg=\n=", 1),
		"as v1":         "v1," + vectorSignatureA[4:],
		"in caps":       "V1A," + vectorSignatureA[4:],
		"version alone": "v1a,",
	} {
		header := headerA()
		header.Set(signature.HeaderSignature, sig)
		require.ErrorIs(t, v.Verify(header, []byte(vectorBody)), signature.ErrNoMatch, name)
	}
	header := headerA()
	header[signature.HeaderSignature] = []string{"v1,AAAA v1a,AAAA, " + vectorSignatureA}
	require.NoError(t, v.Verify(header, []byte(vectorBody)))
	header[signature.HeaderSignature] = []string{strings.Repeat("v1a,AAAA ", 10) + vectorSignatureA}
	require.ErrorIs(t, v.Verify(header, []byte(vectorBody)), signature.ErrTooMany)
}

// device is a key that does not leave its device.
type device struct {
	key ed25519.PrivateKey
	err error
	cut int
}

func (d device) Public() crypto.PublicKey { return d.key.Public() }

func (d device) Sign(r io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	sig, err := d.key.Sign(r, message, o)
	return sig[d.cut:], errors.Join(err, d.err)
}

func TestAnyCryptoSignerSigns(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for _, signer := range []crypto.Signer{private, &private, device{key: private}} {
		key, err := signature.NewPrivateKey(signer)
		require.NoError(t, err)
		sig, err := key.Sign("id", 1, []byte("body"))
		require.NoError(t, err)
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sig, "v1a,"))
		require.NoError(t, err)
		require.True(t, ed25519.Verify(public, []byte("id.1.body"), raw))
	}

	gone := errors.New("device gone")
	key, err := signature.NewPrivateKey(device{key: private, err: gone})
	require.NoError(t, err)
	dst, err := key.AppendSign([]byte("kept"), "id", 1, nil)
	require.ErrorIs(t, err, gone)
	require.Equal(t, "kept", string(dst))

	key, err = signature.NewPrivateKey(device{key: private, cut: 1})
	require.NoError(t, err)
	_, err = key.Sign("id", 1, nil)
	require.EqualError(t, err, "signature: sign: 63 bytes, want 64")
}

func TestNewPrivateKeyCopiesItsBytes(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := signature.NewPrivateKey(private)
	require.NoError(t, err)
	want, err := key.Sign("id", 1, nil)
	require.NoError(t, err)
	clear(private)
	got, err := key.Sign("id", 1, nil)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestBadAsymmetricKeysNameTheProblem(t *testing.T) {
	t.Parallel()
	encode := base64.StdEncoding.EncodeToString
	raw, err := base64.StdEncoding.DecodeString(privateText[5:])
	require.NoError(t, err)
	swapped := append(append([]byte(nil), raw[:32]...), make([]byte, 32)...)
	for text, want := range map[string]string{
		"":                                  "no prefix whsk_",
		privateText[5:]:                     "no prefix whsk_",
		publicText:                          "no prefix whsk_",
		vectorSecret:                        "no prefix whsk_",
		"whsk_":                             "0 bytes, want 64",
		"whsk_" + encode(raw[:32]):          "32 bytes, want 64",
		"whsk_" + encode(append(raw, 1)):    "65 bytes, want 64",
		"whsk_" + encode(swapped):           "the public half does not belong to the private one",
		privateText + "\n":                  "white space in it, want none",
		strings.TrimRight(privateText, "="): "not standard, padded base64 after whsk_: illegal base64 data at input byte 84",
	} {
		key, err := signature.ParsePrivateKey(text)
		require.ErrorIs(t, err, signature.ErrBadKey)
		require.EqualError(t, err, "signature: bad key: "+want)
		require.Equal(t, signature.PrivateKey{}, key)
	}
	for text, want := range map[string]string{
		"":                                 "no prefix whpk_",
		privateText:                        "no prefix whpk_",
		"whpk_" + encode(raw):              "64 bytes, want 32",
		"whpk_" + encode(make([]byte, 32)): "all bytes are zero",
		"whpk_-":                           "not standard, padded base64 after whpk_: illegal base64 data at input byte 0",
	} {
		key, err := signature.ParsePublicKey(text)
		require.ErrorIs(t, err, signature.ErrBadKey)
		require.EqualError(t, err, "signature: bad key: "+want)
		require.Equal(t, signature.PublicKey{}, key)
	}

	_, err = signature.NewPrivateKey(nil)
	require.EqualError(t, err, "signature: bad key: no crypto.Signer")
	_, err = signature.NewPrivateKey(ed25519.PrivateKey(nil))
	require.EqualError(t, err, "signature: bad key: 0 bytes, want 64")
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, err = signature.NewPrivateKey(other)
	require.EqualError(t, err, "signature: bad key: it is of the kind *ecdsa.PublicKey, want ed25519.PublicKey")

	_, err = signature.PrivateKey{}.Sign("id", 1, nil)
	require.ErrorIs(t, err, signature.ErrBadKey)
	require.Equal(t, signature.PublicKey{}, signature.PrivateKey{}.Public())
}

func TestPrivateKeyNeverPrints(t *testing.T) {
	t.Parallel()
	key, err := signature.ParsePrivateKey(privateText)
	require.NoError(t, err)
	scheme, err := signature.ParseScheme("v1a")
	require.NoError(t, err)
	signer, err := scheme.Prepare(privateText)
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%o"} {
		require.Equal(t, "[secret]", fmt.Sprintf(verb, key))
		require.Equal(t, "[secret]", fmt.Sprintf(verb, signer))
	}
	require.Equal(t, "[secret]", key.LogValue().String())
	text, err := signer.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "[secret]", string(text))

	// This printer ignores methods and follows pointers.
	var diff recorder
	require.Equal(&diff, key, signer)
	require.NotContains(t, diff.String(), "e9 76 ff 74")
	require.NotContains(t, diff.String(), "0xe9, 0x76")
}

func TestCopiesOfAPrivateKeySignAtOnce(t *testing.T) {
	t.Parallel()
	key, err := signature.ParsePrivateKey(privateText)
	require.NoError(t, err)
	v := at(t, 1, publicText)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				body := []byte(strings.Repeat(strconv.Itoa(g), i))
				sig, err := key.Sign("id", 1, body)
				header := http.Header{
					signature.HeaderID:        {"id"},
					signature.HeaderTimestamp: {"1"},
					signature.HeaderSignature: {sig},
				}
				if err := errors.Join(err, v.Verify(header, body)); err != nil {
					t.Errorf("goroutine %d, signature %d: %v", g, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func headerA() http.Header {
	header := vectorHeader()
	header.Set(signature.HeaderSignature, vectorSignatureA)
	return header
}
