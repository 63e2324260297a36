package bench_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// report is the results of BenchmarkPeers.
type report struct {
	events, rounds int
	subjects       []subject
	absent         []string
	bare           series
	cells          map[[2]string]*cell // by subject and phase
	software       []string
}

// cell is what one phase of one subject measured, by round.
type cell struct{ rates, ratios series }

type median struct {
	subject, phase string
	ratio          float64
}

func newReport(events, rounds int) *report {
	return &report{events: events, rounds: rounds, cells: map[[2]string]*cell{}}
}

func (r *report) add(subject, phase string, rate, ratio float64) {
	key := [2]string{subject, phase}
	if r.cells[key] == nil {
		r.cells[key] = &cell{}
	}
	r.cells[key].rates = append(r.cells[key].rates, rate)
	r.cells[key].ratios = append(r.cells[key].ratios, ratio)
}

// medians returns the ratios of the phases that deliver.
func (r *report) medians() []median {
	var list []median
	for _, p := range phases {
		for _, s := range r.subjects {
			if c := r.cells[[2]string{s.name, p.name}]; c != nil && p.deliver {
				list = append(list, median{s.name, p.name, c.ratios.median()})
			}
		}
	}
	return list
}

// modules is what of go.mod is named beside the results.
var modules = map[string]string{
	"github.com/riverqueue/river": "River", "github.com/nats-io/nats-server/v2": "NATS server",
	"github.com/hibiken/asynq": "asynq", "go.etcd.io/bbolt": "bbolt",
}

// versions notes what was measured.
func (r *report) versions(s *servers) {
	r.software = append(r.software, runtime.Version())
	requirements, _ := os.ReadFile("go.mod") // a test binary does not know them
	for line := range strings.Lines(string(requirements)) {
		if f := strings.Fields(line); len(f) >= 2 && modules[f[0]] != "" {
			r.software = append(r.software, modules[f[0]]+" "+f[1])
		}
	}
	if s.postgres != nil && s.postgres.err == nil {
		r.software = append(r.software, "PostgreSQL "+s.postgres.version)
	}
	if s.redis != nil && s.redis.err == nil {
		r.software = append(r.software, "Redis "+s.redis.version)
	}
}

// markdown returns one row a phase and subject.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, on %s, with\n\n\t%s\n\n", time.Now().UTC().Format(time.DateOnly), machine(), command())
	if quick() {
		b.WriteString("QUICK MODE, to see that it works: the numbers mean nothing.\n\n")
	}
	fmt.Fprintf(&b, "%s. Events of 1 KiB a phase: %d; rounds: %d. Medians, and ranges in parentheses. ",
		strings.Join(r.software, ", "), r.events, r.rounds)
	fmt.Fprintf(&b, "Of bare is the rate by that of the bare loop just before; the bare loop made %s events/s.\n\n", r.bare)
	for _, s := range r.subjects {
		fmt.Fprintf(&b, "- %s: %s.\n", s.name, s.about)
	}
	for _, reason := range r.absent {
		fmt.Fprintf(&b, "- LEFT OUT: %s.\n", strings.Join(strings.Fields(reason), " "))
	}
	b.WriteString("\n| phase | subject | events/s | of bare |\n| --- | --- | ---: | ---: |\n")
	for _, p := range phases {
		for _, s := range r.subjects {
			rates, ratios := "no such call", ""
			if c := r.cells[[2]string{s.name, p.name}]; c != nil {
				rates, ratios = c.rates.String(), c.ratios.fine()
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p.name, s.name, rates, ratios)
		}
	}
	return b.String()
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
		text += " " + strings.TrimSpace(string(release))
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

// command is the flags that the benchmark was started with, as one gives them to go test.
func command() string {
	text := "go test ./bench"
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.paniconexit0", "test.testlogfile":
			return // set by go test itself
		}
		value := f.Value.String()
		if value == "" || strings.ContainsAny(value, "$^| *()") {
			value = "'" + value + "'"
		}
		text += " -" + strings.TrimPrefix(f.Name, "test.") + " " + value
	})
	return text
}

// The lines of a Markdown file that the table stands between.
const (
	tableBegins = "<!-- peers: written by go test ./bench -bench Peers -table -->"
	tableEnds   = "<!-- peers: end -->"
)

// writeTable replaces the table of a file. It appends one where there is none, and makes the file.
func writeTable(path, table string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	block := tableBegins + "\n\n" + strings.TrimSpace(table) + "\n\n" + tableEnds + "\n"
	before, rest, found := strings.Cut(string(old), tableBegins)
	if !found {
		if before != "" {
			before = strings.TrimRight(before, "\n") + "\n\n"
		}
		return os.WriteFile(path, []byte(before+block), 0o644)
	}
	_, after, found := strings.Cut(rest, tableEnds+"\n")
	if !found {
		return fmt.Errorf("%s: %q without %q", path, tableBegins, tableEnds)
	}
	return os.WriteFile(path, []byte(before+block+after), 0o644)
}

func TestTableReplacesOnlyItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "performance.md")
	require.NoError(t, os.WriteFile(path, []byte("# Performance\n\nText.\n"), 0o600))
	require.NoError(t, writeTable(path, "first"))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(text, "\nMore.\n"...), 0o600))
	require.NoError(t, writeTable(path, "second"))
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "# Performance\n\nText.\n\n"+tableBegins+"\n\nsecond\n\n"+tableEnds+"\n\nMore.\n", string(text))

	require.NoError(t, os.WriteFile(path, []byte(tableBegins+"\nMine.\n"), 0o600))
	require.ErrorContains(t, writeTable(path, "third"), "without")
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, tableBegins+"\nMine.\n", string(text))
}
