package postrider_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func TestScheduleHasOneAttemptMoreThanWaits(t *testing.T) {
	t.Parallel()
	s := postrider.Schedule{time.Second, 0}
	for n, want := range map[int]struct {
		wait time.Duration
		ok   bool
	}{-1: {0, false}, 0: {0, false}, 1: {time.Second, true}, 2: {0, true}, 3: {0, false}, 1 << 40: {0, false}} {
		wait, ok := s.Next(n)
		require.Equal(t, want.wait, wait, n)
		require.Equal(t, want.ok, ok, n)
	}
	_, ok := postrider.Schedule(nil).Next(1)
	require.False(t, ok, "an empty one has one attempt")

	total := time.Duration(0)
	for _, wait := range postrider.DefaultSchedule() {
		total += wait
	}
	require.Equal(t, 75*time.Hour+35*time.Minute+5*time.Second, total)
}

func waits(p postrider.RetryPolicy) (list []time.Duration) {
	for n := 1; ; n++ {
		wait, ok := p.Next(n)
		if !ok {
			return list
		}
		list = append(list, wait)
	}
}

func TestExponentialGrowsToItsLimit(t *testing.T) {
	t.Parallel()
	require.Equal(t, seconds(1, 2, 4, 5, 5), waits(postrider.Exponential{First: time.Second, Max: 5 * time.Second, Attempts: 6}))
	require.Equal(t, seconds(1, 3, 9), waits(postrider.Exponential{First: time.Second, Factor: 3, Attempts: 4}))
	require.Equal(t, seconds(2, 2), waits(postrider.Exponential{First: 2 * time.Second, Factor: 1, Attempts: 3}))
	require.Equal(t, seconds(2, 2), waits(postrider.Exponential{First: 9 * time.Second, Max: 2 * time.Second, Attempts: 3}))
	require.Equal(t, seconds(5, 10, 20, 40, 80, 160, 320, 640, 1280), waits(postrider.Exponential{}))
	require.Empty(t, waits(postrider.Exponential{Attempts: 1}))
	most := waits(postrider.Exponential{Attempts: 101, Factor: 1000})
	require.Len(t, most, 100)
	require.Equal(t, 24*time.Hour, most[99], "it does not overflow")
	_, ok := postrider.Exponential{}.Next(0)
	require.False(t, ok)
}

func TestJitterOnlyAdds(t *testing.T) {
	t.Parallel()
	base := postrider.DefaultSchedule()
	require.Equal(t, postrider.RetryPolicy(base), postrider.Jitter(base, 0))
	require.Equal(t, postrider.RetryPolicy(base), postrider.Jitter(base, -1))
	p := postrider.Jitter(base, 0.1)
	different := false
	for range 200 {
		for i, wait := range waits(p) {
			require.GreaterOrEqual(t, wait, base[i])
			require.LessOrEqual(t, wait, base[i]+base[i]/10)
			different = different || wait != base[i]
		}
	}
	require.True(t, different)
	require.Equal(t, seconds(0), waits(postrider.Jitter(postrider.Schedule{0}, 0.5)))
	require.Len(t, waits(p), 9)
}

func TestRetryPoliciesAreChecked(t *testing.T) {
	t.Parallel()
	w := validWebhook()
	w.Retry = make(postrider.Schedule, 101)
	require.Equal(t, []string{"Webhook.Retry has 101 waits, want at most 100"}, fields(t, w.Validate()))
	w.Retry = postrider.Schedule{0, 366*24*time.Hour + 1}
	require.Len(t, fields(t, w.Validate()), 1)
	_, err := postrider.New(nil, postrider.Config{Retry: postrider.Exponential{First: -1, Max: -1, Factor: 1001, Attempts: 102}})
	require.Len(t, fields(t, err), 5)
}

// Every hostile Retry-After, through the engine: the next attempt is planned after the wait, or at once if the value
// is to be ignored, as the schedule says.
func TestRetryAfterOfHostileReceivers(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/retry_after.json")
	require.NoError(t, err)
	var cases []struct {
		Value string
		Now   time.Time
		Wait  *string
	}
	require.NoError(t, json.Unmarshal(data, &cases))
	require.NotEmpty(t, cases)
	for i, c := range cases {
		t.Run(strconv.Itoa(i)+" "+c.Value, func(t *testing.T) {
			t.Parallel()
			want := 3 * time.Second // its own
			if c.Wait != nil {
				wait, err := time.ParseDuration(*c.Wait)
				require.NoError(t, err)
				want = max(want, wait)
			}
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(c.Now))
				b := newBench(t, nil, postrider.Config{Retry: postrider.Schedule{3 * time.Second}}, func(context.Context, postrider.Request) (postrider.Response, error) {
					return postrider.Response{Code: 429, Header: http.Header{"Retry-After": {c.Value}}}, nil
				})
				b.hook("a")
				b.emit("e", "x")
				b.runFor(25 * time.Hour)
				require.Equal(t, []time.Duration{0, want}, b.times())
			})
		})
	}
}
