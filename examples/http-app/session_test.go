package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSessionOfTheDocs runs the session of docs/queries.md, once with the curl of this machine if there is one, and once
// without.
func TestSessionOfTheDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "queries.md"))
	require.NoError(t, err)
	steps := sessionOf(strings.ReplaceAll(string(text), "\r\n", "\n"))
	require.Greater(t, len(steps), 9)
	t.Run("net/http", func(t *testing.T) {
		t.Parallel()
		(&session{addr: startApp(t), call: callHTTP}).run(t, steps)
	})
	t.Run("curl", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip("no curl")
		}
		(&session{addr: startApp(t), call: callCurl}).run(t, steps)
	})
}

// step is a command, and what it prints.
type step struct{ command, output string }

// sessionOf returns the steps of all blocks that begin with ```console.
func sessionOf(text string) (steps []step) {
	inside := false
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.HasPrefix(line, "```console")
		case !inside:
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, step{command: strings.TrimSpace(line[2:])})
		default:
			steps[len(steps)-1].output += line
		}
	}
	return steps
}

// docsAddr is where the app listens in the docs.
const docsAddr = "localhost:8080"

// session runs steps against an app that listens elsewhere, and whose IDs are others than those of the docs.
type session struct {
	addr      string
	call      func(*testing.T, []string) string
	variables []string // of the shell, for strings.NewReplacer
	ids       []string // of the docs and of the app in turn, likewise
}

func (s *session) run(t *testing.T, steps []step) {
	for _, step := range steps {
		if name, value, ok := strings.Cut(step.command, "='"); ok && !strings.Contains(name, " ") {
			s.variables = append(s.variables, `"$`+name+`"`, "'"+value)
			continue
		}
		command := strings.NewReplacer(s.variables...).Replace(step.command)
		command = strings.NewReplacer(append(s.ids, docsAddr, s.addr)...).Replace(command)
		args := split(command)
		require.Equal(t, "curl", args[0])
		// What is only read may be read too early: the delivery takes its moment.
		reads := !strings.Contains(command, " -d ") && !strings.Contains(command, " -X ")
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			got := compact(s.call(t, args[1:]))
			want, ids := s.pattern(compact(step.output))
			if found := want.FindStringSubmatch(got); found != nil {
				for i, id := range ids {
					s.ids = append(s.ids, id, found[i+1])
				}
				break
			}
			require.True(t, reads && time.Now().Before(deadline), "%s\nprints %s\nwant   %s", command, got, compact(step.output))
		}
	}
}

// volatile is what differs from run to run: IDs that were made, times, secrets, durations.
var volatile = regexp.MustCompile(`[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z|whsec_[\w+/=]+|` +
	`"timestampSent":\d+|"lastResponseTime":\d+|` + regexp.QuoteMeta(docsAddr))

// pattern returns what an output must match, and the IDs of the docs that its groups stand for. An ID that was seen
// before must be the same again.
func (s *session) pattern(output string) (want *regexp.Regexp, ids []string) {
	var b strings.Builder
	rest := 0
	for _, at := range volatile.FindAllStringIndex(output, -1) {
		b.WriteString(regexp.QuoteMeta(output[rest:at[0]]))
		rest = at[1]
		switch text := output[at[0]:at[1]]; {
		case text == docsAddr:
			b.WriteString(regexp.QuoteMeta(s.addr))
		case strings.HasPrefix(text, "whsec_"):
			b.WriteString(`whsec_[\w+/=]+`)
		case text[0] == '"':
			name, _, _ := strings.Cut(text, ":")
			b.WriteString(name + `:\d+`)
		case strings.HasSuffix(text, "Z"):
			b.WriteString(`\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z`)
		default:
			if known := strings.NewReplacer(s.ids...).Replace(text); known != text {
				b.WriteString(known)
				continue
			}
			ids = append(ids, text)
			b.WriteString(`([0-9a-f-]{36})`)
		}
	}
	return regexp.MustCompile("^" + b.String() + regexp.QuoteMeta(output[rest:]) + "$"), ids
}

// compact takes the white space out of JSON, and leaves other text as it is.
func compact(text string) string {
	var b bytes.Buffer
	if json.Compact(&b, []byte(text)) != nil {
		return text
	}
	return b.String()
}

// split takes a command apart as a shell does, as far as the docs need it: at spaces, but not within '.
func split(command string) (args []string) {
	quoted := false
	for i, part := range strings.Split(command, "'") {
		if quoted = i%2 == 1; quoted {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return args
}

func callCurl(t *testing.T, args []string) string {
	out, err := exec.CommandContext(t.Context(), "curl", append([]string{"--noproxy", "*"}, args...)...).Output()
	require.NoError(t, err)
	return string(out)
}

// callHTTP does what curl does with -s, -H, -d and -X.
func callHTTP(t *testing.T, args []string) string {
	method, url, header := http.MethodGet, "", http.Header{}
	var body io.Reader
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-s":
		case "-H":
			i++
			name, value, _ := strings.Cut(args[i], ": ")
			header.Set(name, value)
		case "-d":
			i++
			method, body = http.MethodPost, strings.NewReader(args[i])
		case "-X":
			i++
			method = args[i]
		default:
			require.Empty(t, url, "what curl is told is not understood: %q", args)
			url = "http://" + args[i]
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	r.Header = header
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(text)
}

// The Go of docs/queries.md compiles.
func TestGoOfTheDocsCompiles(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "queries.md"))
	require.NoError(t, err)
	_, body, ok := strings.Cut(strings.ReplaceAll(string(text), "\r\n", "\n"), "```go\n")
	require.True(t, ok)
	body, _, ok = strings.Cut(body, "```\n")
	require.True(t, ok)
	file := filepath.Join(t.TempDir(), "docs.go")
	require.NoError(t, os.WriteFile(file, []byte("package docs\n\nimport (\n\"context\"\n\"fmt\"\n\"time\"\n\n"+
		"\"github.com/postrider/postrider\"\n)\n\nfunc docs(ctx context.Context, d *postrider.Dispatcher) error {\n"+body+"return nil\n}\n"), 0o600))
	out, err := exec.CommandContext(t.Context(), tool, "vet", file).CombinedOutput() // with the imports of this module
	require.NoError(t, err, "%s", out)
}
