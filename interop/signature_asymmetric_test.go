package interop_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

const privateKey = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="

// The official library for Go verifies v1 alone, so v1a is verified by hand here.
func TestAsymmetricSignatureVerifiesByHand(t *testing.T) {
	t.Parallel()
	body, now := []byte(`{"test": 2432232314}`), time.Now().Unix()
	key, err := signature.ParsePrivateKey(privateKey)
	require.NoError(t, err)
	signed, err := key.Sign("msg_1", now, body)
	require.NoError(t, err)

	public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Public().String(), "whpk_"))
	require.NoError(t, err)
	sig, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signed, "v1a,"))
	require.NoError(t, err)
	require.True(t, ed25519.Verify(public, fmt.Appendf(nil, "msg_1.%d.%s", now, body), sig))
}

// A sender on its way from v1 to v1a signs with both.
func TestOfficialLibraryFindsV1BesideV1a(t *testing.T) {
	t.Parallel()
	theirs, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	body, now := []byte("{}"), time.Now().Unix()
	var value []byte
	for _, c := range [][2]string{{"v1a", privateKey}, {"v1", secret}} {
		scheme, err := signature.ParseScheme(c[0])
		require.NoError(t, err)
		signer, err := scheme.Prepare(c[1])
		require.NoError(t, err)
		value = signer.AppendSign(value, "msg_1", now, body)
	}
	header := http.Header{}
	header.Set(signature.HeaderID, "msg_1")
	header.Set(signature.HeaderTimestamp, strconv.FormatInt(now, 10))
	header.Set(signature.HeaderSignature, string(value))
	require.NoError(t, theirs.Verify(body, header))
	require.NoError(t, signature.Verify(header, body, secret))
}
