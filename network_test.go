package postrider_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

func TestNewReportsEveryProblemOfTheNetwork(t *testing.T) {
	t.Parallel()
	bad := postrider.Network{
		AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.0.0.1/8")},
		DenyPrefixes:  []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")},
		AllowPorts:    []uint16{443, 0},
	}
	_, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Network: bad, Sender: &postrider.HTTPSender{Network: bad}})
	want := []string{
		"Config.Network.AllowPrefixes[1] is 10.0.0.1/8, want 10.0.0.0/8 or 10.0.0.1/32",
		"Config.Network.DenyPrefixes[0] is not a prefix, want one such as 10.0.0.0/8 or fd00::/8",
		"Config.Network.DenyPrefixes[1] is ::ffff:10.0.0.0/104, want 10.0.0.0/8: such addresses are judged as IPv4",
		"Config.Network.AllowPorts[1] is 0, want 1 to 65535",
	}
	for _, line := range want[:4:4] {
		want = append(want, strings.Replace(line, "Config.Network", "Config.Sender.Network", 1))
	}
	var invalid *postrider.ValidationError
	require.ErrorAs(t, err, &invalid)
	var got []string
	for _, f := range invalid.Fields {
		got = append(got, f.Name+" "+f.Reason)
	}
	require.Equal(t, want, got)

	// A sender behind another one is not seen by New. It calls nobody, and says why.
	_, err = (&postrider.HTTPSender{Network: bad}).Send(t.Context(), request(t, "http://a.example/", "{}"))
	require.Equal(t, postrider.ClassLocal, classOf(t, err))
	require.ErrorContains(t, err, "AllowPrefixes[1] is 10.0.0.1/8")
}

func TestRequireHTTPSHoldsWhenSending(t *testing.T) {
	t.Parallel()
	for _, s := range []*postrider.HTTPSender{
		{Network: postrider.Network{RequireHTTPS: true, AllowPrefixes: loopback.AllowPrefixes}},
		{Network: postrider.Network{RequireHTTPS: true}, RoundTripper: roundTripper(func(*http.Request) (*http.Response, error) {
			panic("it was called")
		})},
	} {
		_, err := s.Send(t.Context(), request(t, "http://127.0.0.1:1/", "{}"))
		require.Equal(t, postrider.ClassBlocked, classOf(t, err))
	}
}

// trapped listens on every address of this machine, on some ports, and counts who comes.
type trapped struct {
	hits  atomic.Int64
	hosts []string // with ports
	ports []uint16
	work  sync.WaitGroup
}

func newTrapped(t *testing.T) *trapped {
	t.Helper()
	trap := &trapped{}
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		require.NoError(t, err)
		for _, port := range append(make([]int, 20), 80, 443, 8080, 8443) { // 0: any that is free
			l, err := net.Listen("tcp", netip.AddrPortFrom(prefix.Addr(), uint16(port)).String())
			if err != nil {
				continue // in use, or not allowed, or link-local without a zone
			}
			t.Cleanup(func() { _ = l.Close() })
			at := netip.MustParseAddrPort(l.Addr().String())
			trap.hosts, trap.ports = append(trap.hosts, at.String()), append(trap.ports, at.Port())
			trap.work.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					trap.hits.Add(1)
					_ = c.Close()
				}
			})
		}
	}
	require.NotEmpty(t, trap.hosts)
	return trap
}

// What another version, or another policy, has let into the store is judged again before it is sent to. Not parallel:
// it sets the environment.
func TestHostileURLsAreNeverCalled(t *testing.T) {
	trap := newTrapped(t)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://"+trap.hosts[0])
	}
	var urls []string
	for _, c := range hostile(t, "urls.json") {
		urls = append(urls, c.URL)
	}
	for _, c := range hostile(t, "dials.json") {
		urls = append(urls, "http://"+strings.Replace(c.Address, "%", "%25", 1)+"/")
	}
	for _, host := range trap.hosts {
		_, port, err := net.SplitHostPort(host)
		require.NoError(t, err)
		for _, form := range []string{host, "localhost:" + port, "0.0.0.0:" + port, "[::]:" + port, "127.1:" + port, "2130706433:" + port, "[::ffff:7f00:1]:" + port} {
			urls = append(urls, "http://"+form+"/in?token=hidden", "https://"+form+"/")
		}
	}
	// The ports are allowed, so that only the addresses are in the way.
	n := postrider.Network{AllowPorts: append(trap.ports, 80, 443, 8080, 8443)}
	var log strings.Builder
	store := memstore.New(memstore.Options{})
	d, err := postrider.New(store, postrider.Config{
		Network: n, Retry: postrider.Schedule{}, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	require.NoError(t, err)
	for i, url := range urls {
		w := validWebhook()
		w.ID, w.Name, w.URL, w.Version = fmt.Sprint(i), fmt.Sprint(i), url, 1
		require.NoError(t, store.CreateWebhook(t.Context(), w))
	}
	r, err := d.Emit(t.Context(), postrider.Event{Type: "x", Payload: []byte(`{}`)})
	require.NoError(t, err)
	require.Len(t, r.Deliveries, len(urls))
	stop := start(d)
	for _, id := range r.Deliveries {
		v, err := d.AwaitDelivery(t.Context(), id)
		require.NoError(t, err)
		at, err := strconv.Atoi(v.WebhookID)
		require.NoError(t, err)
		require.Equal(t, postrider.ClassBlocked, v.LastClass, "%q", urls[at])
		require.Equal(t, "The address is not allowed", v.LastError)
		require.Equal(t, 1, v.Attempts)
	}
	require.NoError(t, stop())
	require.Zero(t, trap.hits.Load())
	require.NotContains(t, log.String(), "hidden")
}

type hostileCase struct {
	URL, Address string
	Allow        bool
}

// hostile returns the cases of a list that are denied, but for those that are about what a dialer hands to its Control.
func hostile(t *testing.T, name string) (denied []hostileCase) {
	t.Helper()
	text, err := os.ReadFile("internal/netguard/testdata/" + name)
	require.NoError(t, err)
	var cases []hostileCase
	require.NoError(t, json.Unmarshal(text, &cases))
	public := map[netip.Addr]bool{}
	for _, c := range cases {
		if at, err := netip.ParseAddrPort(c.Address); err == nil && c.Allow {
			public[at.Addr().Unmap()] = true
		}
	}
	for _, c := range cases {
		at, err := netip.ParseAddrPort(c.Address)
		if !c.Allow && (c.URL != "" || err == nil && !public[at.Addr().Unmap()]) {
			denied = append(denied, c)
		}
	}
	require.NotEmpty(t, denied)
	return denied
}

// A name is only judged when it is dialled. Its address and the rule are for the operator.
func TestOnlyTheLogSaysWhatWasBlocked(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	allow := postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("::1/128")}} // localhost may be named
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{
		Network: allow, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Sender: &postrider.HTTPSender{Network: postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}}},
	})
	require.NoError(t, err)
	w := validWebhook()
	w.URL = "http://localhost/in?token=hidden"
	w, err = d.CreateWebhook(t.Context(), w)
	require.NoError(t, err)
	a, err := d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.Equal(t, postrider.ClassBlocked, a.Class)
	require.Equal(t, "The address is not allowed", a.Error)
	require.Contains(t, log.String(), "netguard: address not allowed: 127.0.0.1:80, loopback (RFC 1122)")
	require.NotContains(t, log.String(), "hidden")
}

// Without descriptors nothing can be sent, and no attempt is counted; the dispatcher tries less and less often.
func TestNoDescriptorsIsNotAnAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var dials []time.Duration
		w := newWire()
		d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Logger: quiet()})
		require.NoError(t, err)
		d.Own().DialBy(func(ctx context.Context, network, address string) (net.Conn, error) {
			dials = append(dials, time.Since(begin))
			if time.Since(begin) < 10*time.Second {
				return nil, dialError(syscall.EMFILE, "192.0.2.1")
			}
			return w.dial(ctx, network, address)
		})
		hook := validWebhook()
		hook.URL = "http://a.example/"
		_, err = d.CreateWebhook(t.Context(), hook)
		require.NoError(t, err)
		r, err := d.Emit(t.Context(), postrider.Event{Type: "x", Payload: []byte(`{}`)})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, d.Run(ctx))
		w.work.Wait()
		v, err := d.Delivery(t.Context(), r.Deliveries[0])
		require.NoError(t, err)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, 1, v.Attempts)
		const ms = time.Millisecond
		require.Equal(t, []time.Duration{0, 100 * ms, 300 * ms, 700 * ms, 1500 * ms, 3100 * ms, 6300 * ms, 11300 * ms}, dials)
	})
}
