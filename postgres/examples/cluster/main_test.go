package main

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/postgres/internal/pgtest"
)

// TestMain makes the test's own binary one of the processes.
func TestMain(m *testing.M) {
	if os.Getenv(processEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestClusterTakesOverFromTheOneThatWasKilled(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := run(t.Context(), &out)
	if errors.Is(err, pgtest.ErrNone) && os.Getenv("POSTRIDER_POSTGRES_REQUIRED") == "" {
		t.Skip("SKIPPED, NOTHING IS TESTED HERE: ", err)
	}
	require.NoError(t, err, out.String())
	t.Log(out.String())
	require.Regexp(t, `process 3 killed: it had emitted \d+ events, and had \d+ requests in flight`, out.String())
	require.Regexp(t, `process [12] took over delivery \S+ from process 3, 3[2-9](\.\d+)?s after`, out.String())
	require.Regexp(t, `(\d+) events emitted, (\d+) deliveries made, \d+ delivered, \d+ sent twice`, out.String())
}
