package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBothAttemptsAreVerified(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	require.Equal(t, `receiver  signature and time good, attempt 1, but out of order today: 500
receiver  signature and time good, attempt 2, a retry of the one before, {"amount":"19.90","transfer":"t-1234"}: 200
sender    DELIVERED after 2 attempts
`, out.String())
}

func TestReceiverRefusesForgeries(t *testing.T) {
	t.Parallel()
	key, now := []byte("key"), time.Unix(1_700_000_000, 0)
	body := []byte(`{"id":"d-1","deliveryAttempt":1,"timestampSent":1700000000}`)
	signed := sign(key, body)
	// echo -n '{"id":"d-1","deliveryAttempt":1,"timestampSent":1700000000}' | openssl dgst -sha256 -hmac key
	require.Equal(t, "sha256=361d884197a0df4f30315e341d9e56f5f3c9436b885fbefbb76f3a62617797e7", signed)
	for _, c := range []struct {
		name, signature, body string
		at                    time.Time
		want                  string
	}{
		{"good", signed, string(body), now, ""},
		{"5 minutes old", signed, string(body), now.Add(5 * time.Minute), ""},
		{"older", signed, string(body), now.Add(5*time.Minute + time.Second), "it was sent 5m1s ago"},
		{"from the future", signed, string(body), now.Add(-5*time.Minute - time.Second), "it was sent -5m1s ago"},
		{"changed", signed, string(bytes.Replace(body, []byte("1,"), []byte("2,"), 1)), now, "not by our key"},
		{"by another key", sign([]byte("other"), body), string(body), now, "not by our key"},
		{"unsigned", "", string(body), now, "not by our key"},
	} {
		_, err := verify(key, c.signature, []byte(c.body), c.at)
		if c.want == "" {
			require.NoError(t, err, c.name)
		} else {
			require.ErrorContains(t, err, c.want, c.name)
		}
	}
}
