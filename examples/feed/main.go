// Feed delivers the lines of a file, or of its standard input, to one URL.
//
//	export FEED_SECRET=whsec_...
//	go run ./examples/feed -store feed.db -url http://localhost:8080/webhooks -file events.jsonl
//
// Each line is an object {"type": "...", "payload": ...}; the payload is sent byte for byte. Lines are stored in the
// bbolt file at -store before they are sent, so that feed may be stopped or killed at any time: started again with the
// same store and the same input it goes on where it was.
//
// A line is known by its number and its content. Give every input a store of its own: a line that has the number and
// the content of one that is stored already is that one, and is not sent again.
//
// Exit status: 0 when all has been delivered; 1 when something was given up, or an error stopped feed; 2 for wrong
// flags; 130 after Ctrl-C or SIGTERM, when what was in flight has finished or been cut off. A second Ctrl-C kills it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

var (
	errInterrupted = errors.New("interrupted; the same command goes on from here")
	errUsage       = errors.New("wrong flags") // the flag package has said which
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from then on a signal kills

	err := feed(ctx, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "feed:", err)
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "feed:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	store, url, secret, file string
	inflight                 int
	retry                    postrider.Schedule
}

func feed(ctx context.Context, args []string) error {
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	input := os.Stdin
	if o.file != "" {
		if input, err = os.Open(o.file); err != nil {
			return err
		}
		defer input.Close()
	}
	return run(ctx, o, input, newProgress(os.Stdout))
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("feed", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.store, "store", "", "`path` of the bbolt file; made if there is none")
	f.StringVar(&o.url, "url", "", "where to deliver")
	f.StringVar(&o.secret, "secret", "", "signing secret whsec_...; better in the environment, as FEED_SECRET")
	f.StringVar(&o.file, "file", "", "JSON lines to read; standard input if empty")
	f.IntVar(&o.inflight, "inflight", 16, "requests in flight at once")
	f.Func("retry", "waits between the attempts, such as 1s,10s,1m; three days of them if empty", func(text string) error {
		for part := range strings.SplitSeq(text, ",") {
			wait, err := time.ParseDuration(part)
			if err != nil {
				return err
			}
			o.retry = append(o.retry, wait)
		}
		return nil
	})
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, errUsage
	}
	if o.secret == "" {
		o.secret = os.Getenv("FEED_SECRET")
	}
	var missing []string
	for _, need := range []struct{ value, name string }{{o.store, "-store"}, {o.url, "-url"}, {o.secret, "FEED_SECRET or -secret"}} {
		if need.value == "" {
			missing = append(missing, need.name)
		}
	}
	switch {
	case len(missing) > 0:
		fmt.Fprintln(stderr, "missing:", strings.Join(missing, ", "))
	case o.inflight < 1:
		fmt.Fprintf(stderr, "-inflight is %d, want 1 or more\n", o.inflight)
	case f.NArg() > 0:
		fmt.Fprintf(stderr, "%q is no flag; the input is named by -file\n", f.Arg(0))
	default:
		return o, nil
	}
	return o, errUsage
}

// run stores what the input holds and delivers all that is stored. The store is closed last, after Run has ended.
func run(ctx context.Context, o options, input io.Reader, show *progress) (err error) {
	secret, err := postrider.ParseSecret(o.secret)
	if err != nil {
		return err
	}
	store, err := bolt.Open(o.store, bolt.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	// Whoever runs feed chooses the URL and may call what they like. URLs of strangers want the zero Network.
	anywhere := postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	d, err := postrider.New(store, postrider.Config{Concurrency: o.inflight, MaxPayload: maxLine, Network: anywhere})
	if err != nil {
		return err
	}
	hook, err := d.EnsureWebhook(ctx, postrider.Webhook{
		Name:        "feed",
		URL:         o.url,
		Events:      []string{"*"},
		Secrets:     []postrider.Secret{secret},
		Retry:       o.retry,
		MaxInFlight: o.inflight,
	})
	if err != nil {
		return err
	}

	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(working) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()

	// Nobody waits for this goroutine: a read from a terminal or a pipe cannot be interrupted. After stop it stores
	// nothing more, and if it did, no harm would be done.
	read := make(chan error, 1)
	go func() { read <- emit(working, d, newLines(input)) }()

	return watch(ctx, d, hook.ID, read, show)
}

// watch shows how far it is until the input has ended and nothing is open. It returns an error if that does not come
// to be, or if something was given up.
func watch(ctx context.Context, d *postrider.Dispatcher, hookID string, read <-chan error, show *progress) error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	reading := true
	for {
		select {
		case <-ctx.Done():
			show.end("stopping: requests in flight have 10s to finish")
			return errInterrupted
		case err := <-read:
			if ctx.Err() != nil {
				return errInterrupted
			}
			if err != nil {
				show.end("stopping")
				return err
			}
			reading, read = false, nil
		case <-look.C:
		}
		stats, err := d.Stats(ctx, postrider.StatsQuery{WebhookID: hookID})
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			return err
		}
		if !reading && stats.Open() == 0 {
			show.end(show.line(stats, reading))
			if lost := stats.Failed + stats.Canceled; lost > 0 {
				return fmt.Errorf("given up: %d of %d events", lost, ended(stats))
			}
			return nil
		}
		show.update(time.Now(), stats, reading)
	}
}
