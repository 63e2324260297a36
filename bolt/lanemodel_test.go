//go:build linux

package bolt_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// TestLanesAgainstAModel does random things to a store and a plain list at once: order keys and webhooks that are
// Ordered for a while, transactions of the caller, rollbacks, commits that fail, leases that end, cancellation, pruning,
// and closed stores. Each Claim must hand out exactly what the list says.
func TestLanesAgainstAModel(t *testing.T) {
	t.Parallel()
	for round := range 4 {
		seed := uint64(time.Now().UnixNano()) + uint64(round)
		db := newDisk(t)
		db.NoSync = true // nothing here depends on the disk, and it takes ten times as long
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &laneModel{T: t, random: rand.New(rand.NewPCG(seed, 0)), db: db}
				m.run(400)
			})
		})
	}
}

type laneModel struct {
	*testing.T
	random *rand.Rand
	db     *disk
	store  *bolt.Store
	events int
	all    []*modelDelivery // in the order of commits
	held   []*modelDelivery
}

type modelDelivery struct {
	id, event, webhook string
	lane               string // "": none
	run                string // that a replay was made in the name of; "": none
	status             postrider.Status
	due                time.Time
	created            time.Time
	attempts           int
	claim              postrider.Claim
	until              time.Time // of the lease; zero: not held
	canceled           bool      // ends with its claim
}

const laneLease = time.Minute

func (m *laneModel) run(steps int) {
	m.open()
	for i := range 3 {
		w := postrider.Webhook{ID: fmt.Sprint("w", i), Name: fmt.Sprint("w", i), URL: "http://x.example", Events: []string{"*"}, Ordered: i == 1}
		require.NoError(m, m.store.CreateWebhook(m.Context(), w))
	}
	for i := range steps {
		switch m.random.IntN(21) {
		case 0, 1, 2, 3:
			m.enqueue(false)
		case 4:
			m.enqueue(true)
		case 5, 6, 7, 8, 9:
			m.claim()
		case 10, 11, 12, 13:
			m.complete(false)
		case 14:
			m.complete(true)
		case 15:
			m.change()
		case 16:
			time.Sleep(time.Duration(m.random.IntN(90)) * time.Second)
		case 17:
			m.only()
		case 18:
			m.order()
		case 19:
			m.reopen()
		case 20:
			m.prune()
		}
		if i%5 == 0 {
			m.check()
		}
	}
	for range 1000 {
		m.claim()
		if len(m.held) == 0 && !slices.ContainsFunc(m.all, func(d *modelDelivery) bool { return !d.status.Final() }) {
			break
		}
		m.complete(false)
		time.Sleep(30 * time.Second)
	}
	m.check()
	require.False(m, slices.ContainsFunc(m.all, func(d *modelDelivery) bool { return !d.status.Final() }), "something never came to its turn")
	m.prune()
	m.checkStore()
	require.Zero(m, m.store.Entries()["log"]+m.store.Entries()["lane"]+m.store.Entries()["odd"]+m.store.Entries()["retry"])
	require.NoError(m, m.store.Close())
}

func (m *laneModel) open() {
	var err error
	m.store, err = bolt.New(m.db.DB, bolt.Options{})
	require.NoError(m, err)
}

// prune deletes all that has ended, and by the way moves what else there is of its webhooks to by.
func (m *laneModel) prune() {
	for more := true; more; {
		var err error
		_, more, err = m.store.Prune(m.Context(), 0, 100)
		require.NoError(m, err)
	}
	m.all = slices.DeleteFunc(m.all, func(d *modelDelivery) bool { return d.status.Final() })
}

// reopen ends all claims, and deliveries that were canceled while claimed.
func (m *laneModel) reopen() {
	require.NoError(m, m.store.Close())
	m.open()
	for _, d := range slices.Clone(m.held) {
		m.lose(d)
	}
}

// lapse ends the claims whose lease is over. The store does so in its next Claim, Complete or Change that succeeds, and
// until then it shows them as they were.
func (m *laneModel) lapse(now time.Time) {
	for _, d := range slices.Clone(m.held) {
		if !d.until.After(now) {
			m.lose(d)
		}
	}
}

// lose ends a claim without an outcome.
func (m *laneModel) lose(d *modelDelivery) {
	d.until = time.Time{}
	m.held = slices.DeleteFunc(m.held, func(other *modelDelivery) bool { return other == d })
	if d.canceled {
		d.status = postrider.StatusCanceled
	}
}

// failing runs f with a full disk, and once more with room.
func (m *laneModel) failing(f func() error) {
	m.db.fill()
	err := f()
	m.db.mend()
	require.ErrorIs(m, err, postrider.ErrFull)
	time.Sleep(time.Second)
	m.checkStore()
}

func (m *laneModel) enqueue(foreign bool) {
	ordered := map[string]bool{}
	page, err := m.store.Webhooks(m.Context(), postrider.WebhookQuery{})
	require.NoError(m, err)
	for _, w := range page.Items {
		ordered[w.ID] = w.Ordered
	}
	items := make([]postrider.Item, 1+m.random.IntN(4))
	again := false // the first is a replay that its run has made already, so that nothing is stored for it
	for i := range items {
		m.events++
		items[i].Event = postrider.Event{ID: fmt.Sprintf("%06d", m.events), Type: "a", Payload: []byte("1"), Time: time.Now()}
		if key := m.random.IntN(4); key > 0 {
			items[i].Event.OrderKey = fmt.Sprint("key-", key)
		}
		if m.random.IntN(10) == 0 {
			items[i].Test = true
		}
		if m.random.IntN(3) == 0 {
			items[i].To = []string{"w2", "w1"}
		}
		if i == 0 && len(m.all) > 0 && m.random.IntN(5) == 0 {
			origin := m.all[m.random.IntN(len(m.all))]
			items[i] = postrider.Item{Event: postrider.Event{ID: origin.event}, ReplayOf: origin.id, Run: []string{"", "a run"}[m.random.IntN(2)], To: []string{origin.webhook}}
			again = items[i].Run != "" && slices.ContainsFunc(m.all, func(d *modelDelivery) bool {
				return d.event == origin.event && d.webhook == origin.webhook && d.run == items[i].Run
			})
		}
	}
	enqueue := func() ([]postrider.Receipt, error) { return m.store.Enqueue(m.Context(), items) }
	commit := true
	if foreign {
		commit = m.random.IntN(2) == 0
		enqueue = func() ([]postrider.Receipt, error) {
			tx, err := m.db.Begin(true)
			require.NoError(m, err)
			receipts, err := m.store.Tx(tx).Enqueue(m.Context(), items)
			if commit && err == nil {
				return receipts, tx.Commit()
			}
			require.NoError(m, tx.Rollback())
			return receipts, err
		}
	} else if m.random.IntN(8) == 0 && !(again && len(items) == 1) {
		m.failing(func() error { _, err := enqueue(); return err })
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	receipts, err := enqueue()
	require.NoError(m, err)
	require.Equal(m, again, receipts[0].Duplicate)
	if !commit {
		return
	}
	for i, r := range receipts {
		for _, id := range r.Deliveries {
			got, _, err := m.store.Delivery(m.Context(), id)
			require.NoError(m, err)
			d := &modelDelivery{id: id, event: r.EventID, webhook: got.WebhookID, run: items[i].Run, due: now, created: now}
			switch it := items[i]; {
			case it.Test || it.ReplayOf != "":
			case ordered[d.webhook]:
				d.lane = d.webhook
			case it.Event.OrderKey != "":
				d.lane = d.webhook + " " + it.Event.OrderKey
			}
			m.all = append(m.all, d)
		}
	}
}

// turn returns the first of a lane that has not ended.
func (m *laneModel) turn(lane string) *modelDelivery {
	i := slices.IndexFunc(m.all, func(d *modelDelivery) bool { return d.lane == lane && !d.status.Final() })
	return m.all[i]
}

func (m *laneModel) parked(d *modelDelivery) bool { return d.lane != "" && m.turn(d.lane) != d }

func (m *laneModel) claim() {
	now := time.Now()
	m.lapse(now)
	var want []string
	for _, d := range m.all {
		if !d.status.Final() && d.until.IsZero() && !d.due.After(now) && !m.parked(d) {
			want = append(want, d.id)
		}
	}
	limit := 1000
	if m.random.IntN(2) == 0 {
		limit = 1 + m.random.IntN(3)
	}
	claims, _, err := m.store.Claim(m.Context(), postrider.ClaimRequest{Max: limit, Lease: laneLease})
	require.NoError(m, err)
	var got []string
	for _, c := range claims {
		got = append(got, c.Delivery.ID)
		d := m.find(c.Delivery.ID)
		require.Equal(m, d.attempts, c.Delivery.Attempts)
		require.Equal(m, d.due, c.Delivery.NextAt)
		m.hold(d, c)
	}
	if limit < 1000 {
		require.Subset(m, want, got)
		require.Len(m, got, min(limit, len(want)))
		return
	}
	require.ElementsMatch(m, want, got)
}

func (m *laneModel) hold(d *modelDelivery, c postrider.Claim) {
	d.claim, d.until = c, time.Now().Truncate(time.Microsecond).Add(laneLease)
	m.held = append(m.held, d)
	held := 0
	for _, other := range m.held {
		if other.webhook == d.webhook {
			held++
		}
	}
	require.Equal(m, held, c.Held)
}

func (m *laneModel) find(id string) *modelDelivery {
	i := slices.IndexFunc(m.all, func(d *modelDelivery) bool { return d.id == id })
	return m.all[i]
}

func (m *laneModel) only() {
	if len(m.all) == 0 {
		return
	}
	m.lapse(time.Now())
	d := m.all[m.random.IntN(len(m.all))]
	may := !d.status.Final() && d.until.IsZero() && !m.parked(d)
	claims, _, err := m.store.Claim(m.Context(), postrider.ClaimRequest{Max: 1, Lease: laneLease, Only: d.id})
	require.NoError(m, err)
	require.Equal(m, may, len(claims) == 1)
	for _, c := range claims {
		m.hold(d, c)
	}
}

func (m *laneModel) complete(fails bool) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	held := slices.DeleteFunc(slices.Clone(m.held), func(d *modelDelivery) bool { return !d.until.After(now) })
	m.random.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	part := held[:len(held)-m.random.IntN(len(held)/2+1)]
	if fails && len(part) == 0 {
		return
	}
	outcomes := make([]postrider.Outcome, len(part))
	for i, d := range part {
		switch m.random.IntN(6) {
		case 0:
			outcomes[i] = postrider.Outcome{DeliveryID: d.id, Token: d.claim.Token}
		case 1, 2:
			outcomes[i] = retried(d.claim, now, time.Duration(m.random.IntN(3))*30*time.Second)
		case 3:
			outcomes[i] = retried(d.claim, now, 0)
			outcomes[i].Status = postrider.StatusFailed
		default:
			outcomes[i] = succeeded(d.claim, now)
		}
	}
	if fails && slices.ContainsFunc(outcomes, func(o postrider.Outcome) bool { return o.Attempt != nil }) {
		m.failing(func() error { _, err := m.store.Complete(m.Context(), outcomes); return err })
		for _, d := range part {
			if !d.until.After(time.Now()) {
				return // the second that this took was one too much
			}
		}
	}
	now = time.Now().UTC().Truncate(time.Microsecond)
	completed(m.T, m.store, outcomes...)
	m.lapse(now)
	for i, d := range part {
		canceled := d.canceled
		d.canceled = false
		m.lose(d)
		o := outcomes[i]
		if o.Attempt != nil {
			d.attempts++
			d.status, d.due = o.Status, now.Add(o.RetryIn)
		}
		if canceled && d.status != postrider.StatusDelivered {
			d.status = postrider.StatusCanceled
		}
	}
}

func (m *laneModel) change() {
	now := time.Now().UTC().Truncate(time.Microsecond)
	c := postrider.Change{Kind: postrider.ChangeCancel, Max: 1 + m.random.IntN(20)}
	var picked []*modelDelivery
	switch m.random.IntN(5) {
	case 0:
		if len(m.all) == 0 {
			return
		}
		d := m.all[m.random.IntN(len(m.all))]
		c.Query.ID = d.id
		picked = []*modelDelivery{d}
	case 1:
		c.Kind = postrider.ChangeDue
		picked = slices.DeleteFunc(slices.Clone(m.all), func(d *modelDelivery) bool { return d.until.After(now) || !d.due.After(now) })
	case 2:
		c.Age = time.Duration(m.random.IntN(120)) * time.Second
		picked = slices.DeleteFunc(slices.Clone(m.all), func(d *modelDelivery) bool { return now.Sub(d.created) < c.Age })
	case 3:
		c.Query.Statuses = []postrider.Status{postrider.StatusNew}
		picked = slices.DeleteFunc(slices.Clone(m.all), func(d *modelDelivery) bool { return d.status != postrider.StatusNew })
	case 4:
		c.Query.EventID = fmt.Sprintf("%06d", 1+m.random.IntN(m.events+1))
		picked = slices.DeleteFunc(slices.Clone(m.all), func(d *modelDelivery) bool { return d.event != c.Query.EventID })
	}
	picked = slices.DeleteFunc(picked, func(d *modelDelivery) bool { return d.status.Final() || d.canceled })
	if m.random.IntN(3) == 0 && len(picked) > 0 {
		m.failing(func() error { _, _, err := m.store.Change(m.Context(), c); return err })
		return
	}
	m.lapse(now)
	total := 0
	for more := true; more; {
		var n int
		var err error
		n, more, err = m.store.Change(context.Background(), c)
		require.NoError(m, err)
		require.LessOrEqual(m, n, c.Max)
		total += n
	}
	require.Equal(m, len(picked), total, "%+v", c)
	for _, d := range picked {
		switch {
		case c.Kind == postrider.ChangeDue:
			d.due = now
		case !d.until.IsZero():
			d.canceled = true
		default:
			d.status = postrider.StatusCanceled
		}
	}
}

// order makes a webhook Ordered, or no longer.
func (m *laneModel) order() {
	w, err := m.store.Webhook(m.Context(), fmt.Sprint("w", m.random.IntN(3)))
	require.NoError(m, err)
	w.Ordered = !w.Ordered
	require.NoError(m, m.store.UpdateWebhook(m.Context(), w))
}

// checkStore compares what is stored with itself, once memory is up to the caller's transactions.
func (m *laneModel) checkStore() {
	statsOf(m.T, m.store)
	require.NoError(m, m.store.Check())
}

// check compares what is stored with the list, and with itself.
func (m *laneModel) check() {
	m.checkStore()
	for _, q := range []postrider.DeliveryQuery{
		{Statuses: []postrider.Status{postrider.StatusNew}},
		{Statuses: []postrider.Status{postrider.StatusNew}, WebhookID: "w1", Ascending: true},
		{Code: postrider.CodeNone},
		{},
	} {
		q.Limit = 1 + m.random.IntN(20)
		var want, got []string
		for _, d := range m.all {
			code := d.attempts > 0
			if (len(q.Statuses) == 0 || d.status == q.Statuses[0]) && (q.WebhookID == "" || q.WebhookID == d.webhook) && !(q.Code != "" && code) {
				want = append(want, d.id)
			}
		}
		if !q.Ascending {
			slices.Reverse(want)
		}
		last := postrider.Delivery{}
		for {
			page, err := m.store.Deliveries(m.Context(), q)
			require.NoError(m, err)
			for _, d := range page.Items {
				if last.ID != "" {
					require.True(m, cmp.Compare(d.CreatedAt.UnixMicro(), last.CreatedAt.UnixMicro()) != map[bool]int{true: -1, false: 1}[q.Ascending])
				}
				last = d
				got = append(got, d.ID)
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				break
			}
		}
		require.Equal(m, want, got, "%+v", q)
	}
}
