package interop_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

func TestSignaturesVerifyBothWays(t *testing.T) {
	t.Parallel()
	theirs, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	ours, err := signature.ParseKey(secret)
	require.NoError(t, err)

	now := time.Now()
	for _, body := range []string{"", "{}", `{"test": 2432232314}`, "\xff\x00 not text"} {
		header := http.Header{}
		header.Set(signature.HeaderID, "msg_1")
		header.Set(signature.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))

		header.Set(signature.HeaderSignature, ours.Sign("msg_1", now.Unix(), []byte(body)))
		require.NoError(t, theirs.Verify([]byte(body), header), "theirs of %q", body)

		signed, err := theirs.Sign("msg_1", now, []byte(body))
		require.NoError(t, err)
		header.Set(signature.HeaderSignature, signed)
		require.NoError(t, signature.Verify(header, []byte(body), secret), "ours of %q", body)
	}
}
