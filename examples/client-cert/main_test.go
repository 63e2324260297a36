package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyTheCertificateLetsIn(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	require.Equal(t, `with the certificate: 200, welcome shop.example
without it: The TLS session could not be established
`, out.String())
}
