package netguard_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

// step is what a dial of one address does: it waits, unless the context ends before, and then connects or fails.
type step struct {
	wait time.Duration
	err  error
}

// fakeConn notes whether it was closed.
type fakeConn struct {
	net.Conn
	to     netip.AddrPort
	closed bool
}

func (c *fakeConn) Close() error { c.closed = true; return nil }

// runRace dials 192.0.2.1, .2 and so on, which do what the steps say, and returns when each dial began.
func runRace(ctx context.Context, steps ...step) (
	winner *fakeConn, conns []*fakeConn, began []time.Duration, err error,
) {
	var list []netip.AddrPort
	for i := range steps {
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 443))
	}
	var mu sync.Mutex
	start := time.Now()
	conn, err := netguard.Race(ctx, list, func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		began = append(began, time.Since(start))
		mu.Unlock()
		s := steps[addr.Addr().As4()[3]-1]
		timer := time.NewTimer(s.wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if s.err != nil {
			return nil, s.err
		}
		conn := &fakeConn{to: addr}
		mu.Lock()
		conns = append(conns, conn)
		mu.Unlock()
		return conn, nil
	})
	winner, _ = conn.(*fakeConn)
	return winner, conns, began, err
}

func TestRace(t *testing.T) {
	t.Parallel()
	one, two := errors.New("one"), errors.New("two")
	const ms, never = time.Millisecond, time.Hour
	for name, c := range map[string]struct {
		steps  []step
		winner byte // the last byte of its address, 0 if none
		err    error
		began  []time.Duration
		took   time.Duration
	}{
		"one":             {[]step{{wait: 20 * ms}}, 1, nil, []time.Duration{0}, 20 * ms},
		"first":           {[]step{{wait: 20 * ms}, {}}, 1, nil, []time.Duration{0}, 20 * ms},
		"second, no wait": {[]step{{wait: 20 * ms, err: one}, {}}, 2, nil, []time.Duration{0, 20 * ms}, 20 * ms},
		"second, stagger": {[]step{{wait: never}, {wait: 5 * ms}}, 2, nil, []time.Duration{0, 300 * ms}, 305 * ms},
		"first, late":     {[]step{{wait: 310 * ms}, {wait: 20 * ms}}, 1, nil, []time.Duration{0, 300 * ms}, 310 * ms},
		"stagger anew": {[]step{{wait: never}, {wait: 100 * ms, err: two}, {wait: never}, {}}, 4, nil,
			[]time.Duration{0, 300 * ms, 400 * ms, 700 * ms}, 700 * ms},
		"all fail": {[]step{{wait: 400 * ms, err: one}, {wait: 10 * ms, err: two}}, 0, two,
			[]time.Duration{0, 300 * ms}, 400 * ms},
		"fail in order": {[]step{{err: one}, {err: two}}, 0, one, []time.Duration{0, 0}, 0},
		"end of the budget": {[]step{{wait: never}, {wait: never}, {wait: never}}, 0, context.DeadlineExceeded,
			[]time.Duration{0, 300 * ms, 600 * ms}, time.Second},
		"end before the rest": {
			[]step{{wait: 900 * ms, err: one}, {wait: never}, {wait: never}, {wait: never}, {wait: never}, {}}, 0, one,
			[]time.Duration{0, 300 * ms, 600 * ms, 900 * ms, 900 * ms}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				winner, conns, began, err := runRace(ctx, c.steps...)
				require.Equal(t, c.took, time.Since(start))
				require.ErrorIs(t, err, c.err)
				for _, conn := range conns {
					require.Equal(t, conn != winner, conn.closed)
				}
				if c.winner > 0 {
					require.Equal(t, c.winner, winner.to.Addr().As4()[3])
				}
				require.Equal(t, c.began, began)
			})
		})
	}
}

func TestConnectionsThatComeTooLateAreClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		winner, conns, _, err := runRace(t.Context(), step{wait: 350 * time.Millisecond}, step{wait: 50 * time.Millisecond})
		require.NoError(t, err)
		open := 0
		for _, conn := range conns {
			if !conn.closed {
				open++
				require.Same(t, winner, conn)
			}
		}
		require.Equal(t, 1, open)
	})
}

func TestChoose(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{})
	for name, c := range map[string]struct {
		addrs []netip.Addr
		want  string
	}{
		"the order of the answer": {addrs("8.8.8.3", "8.8.8.1", "8.8.8.2"), "8.8.8.3 8.8.8.1 8.8.8.2"},
		"families in turn": {addrs("8.8.8.1", "8.8.8.2", "8.8.8.3", "2a00::1", "2a00::2"),
			"8.8.8.1 2a00::1 8.8.8.2 2a00::2 8.8.8.3"},
		"the first family first": {addrs("::1", "2a00::1", "8.8.8.1", "2a00::2"), "2a00::1 8.8.8.1 2a00::2"},
		"mapped is IPv4, once":   {addrs("::ffff:8.8.8.8", "8.8.8.8", "::ffff:10.0.0.1"), "8.8.8.8"},
		"none for no family":     {nil, ""},
		"none allowed":           {addrs("10.0.0.1", "::1"), ""},
		"at most eight": {
			addrs("8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4", "8.8.8.5", "8.8.8.6", "8.8.8.7", "8.8.8.8", "8.8.8.9", "2a00::1"),
			"8.8.8.1 2a00::1 8.8.8.2 8.8.8.3 8.8.8.4 8.8.8.5 8.8.8.6 8.8.8.7"},
	} {
		tries, err := netguard.Choose(c.addrs, 443, g.Check)
		got := ""
		for i, try := range tries {
			if i > 0 {
				got += " "
			}
			got += try.Addr().String()
			require.EqualValues(t, 443, try.Port())
		}
		require.Equal(t, c.want, got, name)
		if c.want == "" {
			requireBlocked(t, err)
		} else {
			require.NoError(t, err)
		}
	}
}

// A name server that never answers costs the dial's own 5 s, also if the caller has more time.
func TestDialBudgetCoversTheLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, netguard.Policy{})
		g.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		start := time.Now()
		_, err := g.DialContext(t.Context(), "tcp", "hook.example.com:443")
		var dns *net.DNSError
		require.ErrorAs(t, err, &dns)
		require.True(t, dns.IsTimeout)
		require.Equal(t, netguard.DialTime, time.Since(start))
	})
}
