package bench_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

var rounds = flag.Int("rounds", 5, "interleaved rounds of each benchmark, of which the medians are reported")

// loopback lets the dispatcher call the receivers of the benchmarks.
var loopback = postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}

// receiverEnv makes the test binary the receiver.
const receiverEnv = "POSTRIDER_BENCH_RECEIVER"

func TestMain(m *testing.M) {
	if os.Getenv(receiverEnv) != "" {
		if err := receive(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if dsn := os.Getenv(delivererEnv); dsn != "" {
		if err := deliverer(dsn); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if path := os.Getenv(scaleChild); path != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// receive answers every request with 200 until standard input ends, which it does when the parent is gone.
func receive() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	served := make(chan error, 1)
	notes := &notebook{}
	go func() {
		served <- http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/hooks/") {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, `{"ok":true}`)
				return
			}
			notes.ServeHTTP(w, r)
		}))
	}()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = l.Close()
	}()
	<-served
	return nil
}

// notebook notes when the receiver had what was sent to /noted/, and tells it once, at /receipts.
type notebook struct {
	mu       sync.Mutex
	receipts []receipt
}

// receipt is the number of an event and when all of it was there.
type receipt struct {
	Number int
	At     int64 // nanoseconds since 1970, by the clock that all processes of a machine share
}

func (n *notebook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	now := time.Now().UnixNano()
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.URL.Path == "/receipts" {
		err = json.NewEncoder(w).Encode(n.receipts)
		n.receipts = nil
	} else if err == nil {
		var event struct{ N *int }
		if err = json.Unmarshal(body, &event); err == nil && event.N == nil {
			err = errors.New("no number")
		}
		if err == nil {
			n.receipts = append(n.receipts, receipt{*event.N, now})
			_, err = io.WriteString(w, `{"ok":true}`)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// receiver is the process that answers.
type receiver struct {
	url string
	pid int
}

// receipts returns what was noted since it was called last.
func (r *receiver) receipts() ([]receipt, error) {
	resp, err := http.Get(r.url + "/receipts")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []receipt
	return list, json.NewDecoder(resp.Body).Decode(&list)
}

// startReceiver starts the receiver in a process of its own and returns its base URL.
func startReceiver(b *testing.B) string { return newReceiver(b).url }

func newReceiver(b *testing.B) *receiver {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), receiverEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)
	return &receiver{url: "http://" + strings.TrimSpace(line), pid: cmd.Process.Pid}
}

// quick reports whether the benchmark is only to show that it works.
func quick() bool {
	return testing.Short() || flag.Lookup("test.benchtime").Value.String() == "1x"
}

// series is the results of the rounds.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// String returns the median and, if there are several, the range.
func (s series) String() string { return s.with(0) }

// fine is String for ratios.
func (s series) fine() string { return s.with(2) }

func (s series) with(digits int) string {
	if len(s) == 0 {
		return ""
	}
	text := fmt.Sprintf("%.*f", digits, s.median())
	if len(s) > 1 {
		text += fmt.Sprintf(" (%.*f to %.*f)", digits, slices.Min(s), digits, slices.Max(s))
	}
	return text
}
