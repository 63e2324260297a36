package postrider_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadmeProgramCompiles(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	text := strings.ReplaceAll(string(readme), "\r\n", "\n")
	_, program, ok := strings.Cut(text, "```go\npackage main\n")
	require.True(t, ok, "README.md has no program")
	program, _, ok = strings.Cut("package main\n"+program, "```\n")
	require.True(t, ok, "its program does not end")

	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, []byte(program), 0o600))
	out, err := exec.CommandContext(t.Context(), tool, "vet", file).CombinedOutput() // with the imports of this module
	require.NoError(t, err, "%s", out)
}
