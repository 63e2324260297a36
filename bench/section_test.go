package bench_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/bench"
)

func TestSectionReplacesOnlyItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "performance.md")
	text := "# Performance\n\n<!-- scale -->\n<!-- end of scale -->\n\nMore.\n\n<!-- peers -->\nold\n<!-- end of peers -->\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, bench.Section(path, "scale", "first"))
	require.NoError(t, bench.Section(path, "scale", "\nsecond\n"))
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "# Performance\n\n<!-- scale -->\n\nsecond\n\n<!-- end of scale -->\n\nMore.\n\n<!-- peers -->\nold\n<!-- end of peers -->\n", string(written))
}

func TestSectionWantsBothItsLinesOnce(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"neither":         "Text.\n",
		"no end":          "<!-- scale -->\nMine.\n",
		"no beginning":    "Mine.\n<!-- end of scale -->\n",
		"twice":           "<!-- scale -->\n<!-- end of scale -->\n<!-- scale -->\n<!-- end of scale -->\n",
		"the other way":   "<!-- end of scale -->\nMine.\n<!-- scale -->\n",
		"another section": "<!-- peers -->\n<!-- end of peers -->\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "performance.md")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			require.Error(t, bench.Section(path, "scale", "third"))
			left, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, text, string(left))
		})
	}
	require.ErrorIs(t, bench.Section(filepath.Join(t.TempDir(), "none.md"), "scale", "x"), os.ErrNotExist)
}
