package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/signature"
)

func TestNextReadsEventsOfWholeLines(t *testing.T) {
	t.Parallel()
	const payload = `{"b":1,  "a":1.00, "ü":"\u00fc<&>"}`
	in := newLines(strings.NewReader(`{"type":"a","payload":` + payload + "}\r\n\n" +
		`{ "payload" : null , "other":1, "type":"b" }` + "\n" +
		`{"type":"a","payload":` + payload + `}`))
	events, err := in.next()
	require.NoError(t, err)
	require.Len(t, events, 2, "the third line may go on")
	require.Equal(t, payload, string(events[0].Payload))
	require.Equal(t, "null", string(events[1].Payload))
	require.Equal(t, "b", events[1].Type)

	more, err := in.next()
	require.NoError(t, err)
	require.Len(t, more, 1)
	require.Equal(t, payload, string(more[0].Payload))
	require.NotEqual(t, events[0].ID, more[0].ID, "two lines that are alike are two events")
	_, err = in.next()
	require.Equal(t, io.EOF, err)
	require.Equal(t, 4, in.number)
}

func TestNextDoesNotWaitForMoreThanOneLine(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = io.WriteString(w, `{"type":"a","payload":1}`+"\n"+`{"type":`) }()
	events, err := newLines(r).next()
	require.NoError(t, err)
	require.Len(t, events, 1)
}

func TestNextBoundsTheBatch(t *testing.T) {
	t.Parallel()
	in := newLines(strings.NewReader(strings.Repeat(`{"type":"a","payload":1}`+"\n", maxBatch+1)))
	events, err := in.next()
	require.NoError(t, err)
	require.Len(t, events, maxBatch)
	events, err = in.next()
	require.NoError(t, err)
	require.Len(t, events, 1)
}

func TestNextNamesTheLineThatIsMalformed(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"invalid character":       `{"type":"a","payload":{]}`,
		"unexpected end":          `{"type":"a","payload":{`,
		`no "payload"`:            `{"type":"a"}`,
		"Event.Type is empty":     `{"payload":1}`,
		`Event.Type is "a b"`:     `{"type":"a b","payload":1}`,
		"cannot unmarshal number": `{"type":1,"payload":1}`,
		"longer than":             strings.Repeat(" ", maxLine),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := newLines(strings.NewReader(`{"type":"a","payload":1}` + "\n\n" + line))
			events, err := in.next()
			if err == nil {
				_, err = in.next()
			}
			require.Len(t, events, 1)
			require.ErrorContains(t, err, "line 3: ")
			require.ErrorContains(t, err, name)
		})
	}
}

// receiver answers with the next of codes, and 200 when there are no more.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex // guards what follows
	codes []int
	got   []string
	hook  func()            // called at each request
	bad   func(string) bool // bodies that are always refused
}

func newReceiver(t *testing.T, codes ...int) *receiver {
	r := &receiver{codes: codes}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || signature.Verify(req.Header, body, secret) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.hook != nil {
			r.hook()
		}
		code := http.StatusOK
		if len(r.codes) > 0 {
			code, r.codes = r.codes[0], r.codes[1:]
		}
		if r.bad != nil && r.bad(string(body)) {
			code = http.StatusInternalServerError
		}
		if code == http.StatusOK {
			r.got = append(r.got, string(body))
		}
		w.WriteHeader(code)
	}))
	t.Cleanup(r.Close)
	return r
}

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func testOptions(t *testing.T, r *receiver) options {
	return options{
		store: filepath.Join(t.TempDir(), "feed.db"), url: r.URL, secret: secret,
		inflight: 4, retry: postrider.Schedule{time.Millisecond, time.Millisecond},
	}
}

func input(n int) io.Reader {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"type":"a","payload":{"n": %d}}`+"\n", i)
	}
	return strings.NewReader(b.String())
}

func TestFeedDeliversAll(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, 500, 500, 200, 500)
	o := testOptions(t, r)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), o, input(250), &progress{w: &out}))
	require.Len(t, r.got, 250)
	require.Contains(t, r.got, `{"n": 249}`)
	require.Contains(t, out.String(), "250 of 250 delivered, 0 given up, 0 failing")

	require.NoError(t, run(t.Context(), o, input(250), &progress{w: io.Discard}))
	require.Len(t, r.got, 250, "nothing is sent a second time")
	require.NoError(t, run(t.Context(), o, input(251), &progress{w: io.Discard}))
	require.Len(t, r.got, 251, "what is new is sent")
}

func TestFeedGoesOnAfterAnInterrupt(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := testOptions(t, r)
	ctx, interrupt := context.WithCancel(t.Context())
	r.hook = func() {
		if len(r.got) == 20 {
			interrupt()
		}
	}
	require.ErrorIs(t, run(ctx, o, input(250), &progress{w: io.Discard}), errInterrupted)
	require.Less(t, len(r.got), 250)
	require.NoError(t, run(t.Context(), o, input(250), &progress{w: io.Discard}))
	require.Len(t, r.got, 250, "what was in flight finished, so nothing came twice")
}

func TestFeedSaysWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.bad = func(body string) bool { return body == `{"n": 1}` }
	err := run(t.Context(), testOptions(t, r), input(3), &progress{w: io.Discard})
	require.EqualError(t, err, "given up: 1 of 3 events")
	require.Len(t, r.got, 2)
}

func TestFeedStopsAtAMalformedLine(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	o := testOptions(t, r)
	err := run(t.Context(), o, io.MultiReader(input(3), strings.NewReader("{]\n"), input(1)), &progress{w: io.Discard})
	require.ErrorContains(t, err, "line 4: ")
	require.NoError(t, run(t.Context(), o, input(3), &progress{w: io.Discard}))
	require.Len(t, r.got, 3)
}

func TestProgressShowsWhatIsLeft(t *testing.T) {
	t.Parallel()
	for _, terminal := range []bool{false, true} {
		var out bytes.Buffer
		p := &progress{w: &out, terminal: terminal}
		now := time.Unix(1_800_000_000, 0)
		for i := range 21 {
			s := postrider.Stats{Delivered: int64(8 * i), Failed: int64(2 * i), InProcess: 5, New: int64(1000 - 10*i - 5)}
			p.update(now.Add(time.Duration(i)*100*time.Millisecond), s, i < 11)
		}
		p.end("the end")
		want := "80 of 1000 delivered so far, 20 given up, 5 failing, 100.0/s\n160 of 1000 delivered, 40 given up, 5 failing, 100.0/s, 8s left\nthe end\n"
		if terminal {
			require.True(t, strings.HasPrefix(out.String(), "\r\x1b[K16 of 1000 delivered so far, 4 given up, 5 failing, 100.0/s\r\x1b[K"))
			require.True(t, strings.HasSuffix(out.String(), "\r\x1b[Kthe end\n"))
			require.Equal(t, 11, strings.Count(out.String(), "\r"))
		} else {
			require.Equal(t, want, out.String())
		}
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	o, err := parse([]string{"-store", "s", "-url", "u", "-secret", "x", "-retry", "1s,2m", "-inflight", "3", "-file", "f"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, options{"s", "u", "x", "f", 3, postrider.Schedule{time.Second, 2 * time.Minute}}, o)

	for want, args := range map[string][]string{
		"missing: -store, -url":                {"-secret", "x"},
		"-inflight is 0, want 1 or more":       {"-store", "s", "-url", "u", "-secret", "x", "-inflight", "0"},
		`"f" is no flag`:                       {"-store", "s", "-url", "u", "-secret", "x", "f"},
		`time: missing unit in duration "1"`:   {"-retry", "1"},
		"flag provided but not defined: -nope": {"-nope"},
	} {
		var out bytes.Buffer
		_, err := parse(args, &out)
		require.ErrorIs(t, err, errUsage)
		require.Contains(t, out.String(), want)
	}
}
