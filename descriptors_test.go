package postrider_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// openDescriptors returns how many descriptors the process has open, as far as the system says so.
func openDescriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
