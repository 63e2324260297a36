package postrider_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func TestApplyDoesToAWebhookWhatItsStateAsksFor(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	in := func(d time.Duration) time.Time { return now.Add(d) }
	rules := func(full int) *postrider.Health {
		return &postrider.Health{BreakAfter: 3, DisableAfter: 100 * time.Hour, MaxInFlight: 8, Full: full}
	}
	failure := postrider.WebhookChange{Failing: true, Health: rules(0)}
	success := postrider.WebhookChange{Health: rules(0)}
	edge := func(full int) postrider.WebhookChange { return postrider.WebhookChange{Health: rules(full)} }
	type hook = postrider.Webhook
	for _, c := range []struct {
		name   string
		was    hook
		change postrider.WebhookChange
		want   hook
	}{
		{"first failure", hook{}, failure, hook{FailingSince: now, Failures: 1}},
		{"next failure", hook{FailingSince: ago(5), Failures: 1}, failure, hook{FailingSince: ago(5), Failures: 2}},
		{"success ends the row", hook{FailingSince: ago(5), Failures: 2}, success, hook{}},
		{"last failure of the row opens",
			hook{FailingSince: ago(5), Failures: 2}, failure,
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 1, NotBefore: in(10 * time.Second)}},
		{"a longer Retry-After goes on top",
			hook{FailingSince: ago(5), Failures: 2},
			postrider.WebhookChange{Failing: true, Hold: time.Minute, Health: rules(0)},
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 1, NotBefore: in(time.Minute)}},
		{"a shorter one does not",
			hook{FailingSince: ago(5), Failures: 2},
			postrider.WebhookChange{Failing: true, Hold: time.Second, Health: rules(0)},
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 1, NotBefore: in(10 * time.Second)}},
		{"Retry-After holds without opening",
			hook{}, postrider.WebhookChange{Failing: true, Hold: time.Minute, Health: rules(0)},
			hook{FailingSince: now, Failures: 1, NotBefore: in(time.Minute)}},
		{"nor does it open while it holds, which the next one does",
			hook{FailingSince: ago(5), Failures: 2, NotBefore: in(1)}, failure,
			hook{FailingSince: ago(5), Failures: 3, NotBefore: in(1)}},
		{"late failure while open",
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 1, NotBefore: in(time.Second)}, failure,
			hook{FailingSince: ago(5), Failures: 4, Window: 1, Trips: 1, NotBefore: in(time.Second)}},
		{"late success while open",
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 1, NotBefore: in(time.Second)}, success,
			hook{Window: 1, Trips: 1, NotBefore: in(time.Second)}},
		{"late success of a wider window while open",
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 2, NotBefore: in(time.Second)}, edge(4),
			hook{Window: 1, Trips: 2, NotBefore: in(time.Second)}},
		{"the probe fails",
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 1, NotBefore: now}, failure,
			hook{FailingSince: ago(5), Failures: 4, Window: 1, Trips: 2, NotBefore: in(20 * time.Second)}},
		{"the probe fails after a late success",
			hook{Window: 1, Trips: 2, NotBefore: now}, failure,
			hook{FailingSince: now, Failures: 1, Window: 1, Trips: 3, NotBefore: in(40 * time.Second)}},
		{"for the seventh time",
			hook{Window: 1, Trips: 6, NotBefore: now}, failure,
			hook{FailingSince: now, Failures: 1, Window: 1, Trips: 7, NotBefore: in(10 * time.Minute)}},
		{"for the hundredth time",
			hook{Window: 1, Trips: 99, NotBefore: now}, failure,
			hook{FailingSince: now, Failures: 1, Window: 1, Trips: 100, NotBefore: in(10 * time.Minute)}},
		{"the probe succeeds",
			hook{FailingSince: ago(5), Failures: 3, Window: 1, Trips: 1, NotBefore: now}, edge(1),
			hook{Window: 2, Trips: 1, NotBefore: now}},
		{"success at full window", hook{Window: 2, Trips: 1, NotBefore: ago(1)}, edge(2), hook{Window: 4, Trips: 1, NotBefore: ago(1)}},
		{"success at the full window before this one", hook{Window: 4, Trips: 1, NotBefore: ago(1)}, edge(2), hook{Window: 4, Trips: 1, NotBefore: ago(1)}},
		{"success below the full window", hook{Window: 4, Trips: 1, NotBefore: ago(time.Minute)}, success, hook{Window: 4, Trips: 1, NotBefore: ago(time.Minute)}},
		{"the window reaches MaxInFlight", hook{Window: 4, Trips: 3, NotBefore: ago(1)}, edge(4), hook{NotBefore: ago(1)}},
		{"failure while widening",
			hook{Window: 4, Trips: 3, NotBefore: ago(time.Second)}, failure,
			hook{FailingSince: now, Failures: 1, Window: 1, Trips: 4, NotBefore: in(80 * time.Second)}},
		{"calm, and never enough to fill the window", hook{Window: 2, Trips: 3, NotBefore: ago(10 * time.Minute)}, success, hook{NotBefore: ago(10 * time.Minute)}},
		{"not yet calm",
			hook{Window: 2, Trips: 3, NotBefore: ago(10*time.Minute - 1)}, success,
			hook{Window: 2, Trips: 3, NotBefore: ago(10*time.Minute - 1)}},
		{"a late success is no probe", hook{Window: 1, Trips: 3, NotBefore: ago(time.Hour)}, success, hook{Window: 1, Trips: 3, NotBefore: ago(time.Hour)}},
		{"failing for long enough, but not often enough",
			hook{FailingSince: ago(200 * time.Hour), Failures: 8, Window: 1, Trips: 5, NotBefore: in(1)}, failure,
			hook{FailingSince: ago(200 * time.Hour), Failures: 9, Window: 1, Trips: 5, NotBefore: in(1)}},
		{"often enough, but not for long enough",
			hook{FailingSince: ago(100*time.Hour - 1), Failures: 50, Window: 1, Trips: 5, NotBefore: in(1)}, failure,
			hook{FailingSince: ago(100*time.Hour - 1), Failures: 51, Window: 1, Trips: 5, NotBefore: in(1)}},
		{"often and long enough",
			hook{FailingSince: ago(100 * time.Hour), Failures: 9, Window: 1, Trips: 5, NotBefore: in(1)}, failure,
			hook{FailingSince: ago(100 * time.Hour), Failures: 10, Window: 1, Trips: 5, NotBefore: in(1),
				State: postrider.StateDisabled, Reason: "every attempt failed for 100h0m0s"}},
		{"a paused webhook stays paused",
			hook{FailingSince: ago(100 * time.Hour), Failures: 9, NotBefore: in(1), State: postrider.StatePaused}, failure,
			hook{FailingSince: ago(100 * time.Hour), Failures: 10, NotBefore: in(1), State: postrider.StatePaused}},
		{"disabled at once",
			hook{}, postrider.WebhookChange{Failing: true, Disable: "gone", Health: rules(0)},
			hook{FailingSince: now, Failures: 1, State: postrider.StateDisabled, Reason: "gone"}},
		{"aside, with all",
			hook{FailingSince: ago(5), Failures: 2, Window: 2, Trips: 1, NotBefore: ago(1)},
			postrider.WebhookChange{Failing: true, Aside: true, Hold: time.Second, Disable: "gone", Health: rules(2)},
			hook{FailingSince: ago(5), Failures: 2, Window: 2, Trips: 1, NotBefore: in(time.Second), State: postrider.StateDisabled, Reason: "gone"}},
		{"aside, with nothing", hook{Failures: 2, Window: 2}, postrider.WebhookChange{Aside: true}, hook{Failures: 2, Window: 2}},
		{"without rules", hook{Failures: 2, Window: 2}, postrider.WebhookChange{Window: 5}, hook{Window: 5}},
		{"a hold never shortens another", hook{NotBefore: in(time.Hour)}, postrider.WebhookChange{Hold: time.Minute}, hook{NotBefore: in(time.Hour)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.was.Version, c.want.Version = 7, 8
			c.want.UpdatedAt = now
			c.change.Apply(&c.was, now)
			require.Equal(t, c.want, c.was)
		})
	}
}

func TestDisableAfterForeverNeverDisables(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	for _, never := range []time.Duration{0, postrider.Forever} {
		w := postrider.Webhook{FailingSince: now.AddDate(-50, 0, 0), Failures: 1000}
		c := postrider.WebhookChange{Failing: true, Health: &postrider.Health{BreakAfter: 1 << 20, DisableAfter: never, MaxInFlight: 8}}
		c.Apply(&w, now)
		require.Equal(t, postrider.StateEnabled, w.State)
	}
}
