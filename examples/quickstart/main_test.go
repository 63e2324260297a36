package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuickstartShowsTheRetryAndTheDelivery(t *testing.T) {
	t.Parallel()
	start := time.Now()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	require.Less(t, time.Since(start), 5*time.Second)

	text := out.String()
	require.Contains(t, text, "for 1 of 2 webhooks")
	require.Contains(t, text, "attempt 1 got 500")
	require.Regexp(t, `(?m)^\S+ +order\.created +orders +2 +DELIVERED$`, text)
	require.Regexp(t, `(?m)^1 +\S+ +\S+ +500 +\S`, text)
	require.Regexp(t, `(?m)^2 +\S+ +\S+ +200\s*$`, text)
	require.Equal(t, 2, strings.Count(text, "signature good"))
}
