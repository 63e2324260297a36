package bench_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/bench"
)

var tablePath = flag.String("table", "", "Markdown file whose sections the benchmarks write their tables to")

// publish prints a table under where, when and how it came to be, and with -table writes it into that section of the
// file. The rest of the software is what the benchmark has measured beside what every benchmark has.
func publish(b *testing.B, section, table string, software ...string) {
	b.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s: %s, with\n\n\t%s\n\n", time.Now().UTC().Format(time.DateOnly), machine(),
		strings.Join(append([]string{runtime.Version()}, software...), ", "), command())
	if quick() {
		text.WriteString("QUICK MODE, to see that it works: the numbers mean nothing.\n\n")
	}
	text.WriteString(strings.TrimSpace(table) + "\n")
	fmt.Printf("\n%s\n", &text) // b.Log would cut it off after ten lines
	if *tablePath != "" {
		require.NoError(b, bench.Section(*tablePath, section, text.String()))
	}
}

// required returns the versions of modules as go.mod has them, which a test binary does not know: "bbolt v1.5.0".
func required(modules map[string]string) []string {
	text, _ := os.ReadFile("go.mod")
	var list []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && modules[f[0]] != "" {
			list = append(list, modules[f[0]]+" "+f[1])
		}
	}
	return list
}

// machine is what the results depend on.
func machine() string {
	model := proc("/proc/cpuinfo", "model name")
	if model == "" {
		model = runtime.GOARCH
	}
	text := fmt.Sprintf("%d x %s", runtime.NumCPU(), model)
	if memory := proc("/proc/meminfo", "MemTotal"); memory != "" {
		var kib int
		if _, err := fmt.Sscanf(memory, "%d kB", &kib); err == nil {
			text += fmt.Sprintf(", %.0f GiB", float64(kib)/(1<<20))
		}
	}
	text += ", " + runtime.GOOS
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		version, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-") // what follows may name the host
		text += " " + version
	}
	return text
}

// proc returns the first value of that name in a file of lines "name : value", "" if there is none.
func proc(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// command is how the benchmark was started, as one types it at the root of the repository.
func command() string {
	text := ""
	for _, name := range []string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"} {
		if value := os.Getenv(name); value != "" {
			text += name + "=" + value + " "
		}
	}
	text += "go test ./bench"
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.paniconexit0", "test.testlogfile":
			return // set by go test itself
		}
		value := f.Value.String()
		if filepath.IsAbs(value) {
			value = filepath.Base(value)
		}
		if value == "" || strings.ContainsAny(value, "$^|? *()") {
			value = "'" + value + "'"
		}
		text += " -" + strings.TrimPrefix(f.Name, "test.") + " " + value
	})
	return text
}
