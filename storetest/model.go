package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/postrider/postrider"
)

// seedVar names the environment variable with the seed of the random case.
const seedVar = "STORETEST_SEED"

var longCases = []testCase{
	{name: "Long/concurrent", run: longConcurrent,
		says: "Methods may be called at the same time from any goroutine."},
	{name: "Long/random", run: longRandom,
		says: "It decides where things are kept and who may work on them; what to retry, when to give up and whom to slow down is the Dispatcher's."},
}

// model is what a store must agree with after any calls: small enough to be read, slow enough not to be used.
type model struct {
	x      *suite
	rnd    *rand.Rand
	rows   []*row                        // in the order of commits
	hooks  map[string]*postrider.Webhook // those that are not deleted; times are the suite's
	names  []string                      // all that ever were
	events []postrider.Event
	runs   map[string]bool // what was replayed in the name of a Run; false: that may be forgotten
	tries  []tallied
	stats  postrider.Stats
	log    []string
}

// row is a delivery of the model.
type row struct {
	id, hook, event     string
	lane                string // "": none
	run                 string // its key in runs, "" if it is of none
	status              postrider.Status
	attempts            int
	created, due, ended time.Time
	canceled            bool // while it was claimed
	claim               *postrider.Claim
	until               time.Time // when the lease is over
}

// longRandom calls the store at random and compares it with the model. STORETEST_SEED repeats a run.
func longRandom(x *suite) {
	seed := uint64(1)
	if v := os.Getenv(seedVar); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		x.ok(seedVar+" as a number", err)
		seed = n
	}
	m := &model{x: x, rnd: rand.New(rand.NewPCG(seed, seed)), hooks: map[string]*postrider.Webhook{}, runs: map[string]bool{}}
	defer func() {
		if f, ok := recover().(failure); ok {
			last := m.log[max(0, len(m.log)-12):]
			panic(failure(fmt.Sprintf("%s\n%s=%d, step %d, the last calls:\n  %q", f, seedVar, seed, len(m.log), last)))
		}
	}()
	ops := []struct {
		weight int
		run    func()
	}{
		{14, m.emit}, {4, m.duplicate}, {4, m.replay}, {20, m.claim}, {28, m.complete}, {3, m.late}, {6, m.step}, {5, m.cancel},
		{5, m.due}, {5, m.pause}, {3, m.order}, {3, m.create}, {1, m.remove}, {2, m.sweep}, {3, m.prune}, {1, m.reopen},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	m.create()
	m.create()
	for i := range 600 {
		n := m.rnd.IntN(total)
		for _, op := range ops {
			if n -= op.weight; n < 0 {
				op.run()
				break
			}
		}
		m.compare()
		if i%8 == 0 {
			m.compareHooks()
		}
	}
	m.compareHooks()
	x.t.Logf("%d calls, %d deliveries, %d attempts; %s=%d", len(m.log), len(m.rows), len(m.tries), seedVar, seed)
}

func (m *model) did(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// expire loses the claims whose lease is over. The store does it no later than at its next Claim.
func (m *model) expire() {
	for _, r := range m.rows {
		if r.claim != nil && !r.until.After(m.x.clock.Now()) {
			m.free(r)
		}
	}
}

// free ends a claim without an outcome.
func (m *model) free(r *row) {
	r.claim = nil
	if r.canceled || m.hooks[r.hook] == nil {
		m.end(r, postrider.StatusCanceled)
	}
}

func (m *model) end(r *row, s postrider.Status) {
	*m.stats.Count(r.status)--
	*m.stats.Count(s)++
	r.status, r.ended = s, m.x.clock.Now()
}

func (m *model) open(f func(*row) bool) []*row {
	var list []*row
	for _, r := range m.rows {
		if !r.status.Final() && f(r) {
			list = append(list, r)
		}
	}
	return list
}

// turn returns the deliveries whose turn it is: those that are open and first of their lane, or in none.
func (m *model) turn() []*row {
	taken := map[string]bool{"": false}
	return m.open(func(r *row) bool {
		first := !taken[r.lane]
		taken[r.lane] = r.lane != ""
		return first
	})
}

func (m *model) has(event string) bool {
	return slices.ContainsFunc(m.rows, func(r *row) bool { return r.event == event })
}

func (m *model) claimed() []*row {
	now := m.x.clock.Now()
	return m.open(func(r *row) bool { return r.claim != nil && r.until.After(now) })
}

// most returns how many claims of a webhook may be held, at least so many as there are deliveries if there is no bound.
func (m *model) most(w *postrider.Webhook, fallback int) int {
	most := w.MaxInFlight
	if most == 0 {
		most = fallback
	}
	if most == 0 {
		most = len(m.rows)
	}
	if w.Window > 0 {
		most = min(most, w.Window)
	}
	if w.State != postrider.StateEnabled || w.NotBefore.After(m.x.clock.Now()) {
		most = 0
	}
	return most
}

func (m *model) claim() {
	m.expire()
	r := postrider.ClaimRequest{Max: 1 + m.rnd.IntN(8), Lease: time.Duration(1+m.rnd.IntN(4)) * time.Hour, MaxInFlight: m.rnd.IntN(4)}
	claims, wait, err := m.x.s.Claim(m.x.ctx, r)
	m.x.ok("Claim", err)
	m.did("claim %d of %d", len(claims), r.Max)
	now := m.x.clock.Now()
	// What could be handed out at most, by webhook.
	room, held := map[string]int{}, map[string]int{}
	for _, row := range m.claimed() {
		held[row.hook]++
	}
	can := map[string]*row{}
	for _, row := range m.turn() {
		if w := m.hooks[row.hook]; w != nil && row.claim == nil && !row.due.After(now) {
			can[row.id] = row
			room[row.hook] = min(room[row.hook]+1, max(0, m.most(w, r.MaxInFlight)-held[row.hook]))
		}
	}
	total := 0
	for _, n := range room {
		total += n
	}
	equal(m.x, "claims", len(claims), min(total, r.Max))
	latest := map[string]time.Time{}
	for _, c := range claims {
		row := can[c.Delivery.ID]
		if row == nil {
			m.x.fail("a claim of a delivery that is due, and whose turn it is", "%s", c.Delivery.ID)
		}
		delete(can, row.id)
		if room[row.hook]--; room[row.hook] < 0 {
			m.x.fail("no more claims of a webhook than it may have", "one more of %s", row.hook)
		}
		held[row.hook]++
		equal(m.x, "Claim.Held", c.Held, held[row.hook])
		if row.due.After(latest[row.hook]) {
			latest[row.hook] = row.due
		}
		row.claim, row.until = &c, now.Add(r.Lease)
	}
	for _, row := range can {
		if row.due.Before(latest[row.hook]) {
			m.x.fail("of one webhook the delivery that is due longest first", "one due at %v before %s", latest[row.hook], row.id)
		}
	}
	if len(claims) == r.Max {
		equal(m.x, "wait when Max was reached", wait, 0)
	}
}

// compare ends the case unless the store holds what the model holds.
func (m *model) compare() {
	now := m.x.clock.Now()
	stats := m.stats
	stats.InFlight = int64(len(m.claimed()))
	for _, r := range m.turn() {
		if r.due.After(now) {
			continue
		}
		if stats.Due++; stats.OldestDue.IsZero() || r.due.Before(stats.OldestDue) {
			stats.OldestDue = r.due
		}
	}
	m.x.sameStats("Stats", m.x.stats(), stats)
	list := m.x.deliveries(postrider.DeliveryQuery{Ascending: true, Limit: 1000})
	equal(m.x, "deliveries", len(list), len(m.rows))
	for i, d := range list {
		r := m.rows[i]
		got := fmt.Sprintf("%s of %s to %s, %s, %d attempts, in flight %t", d.ID, d.EventID, d.WebhookID, d.Status, d.Attempts, d.InFlight)
		want := fmt.Sprintf("%s of %s to %s, %s, %d attempts, in flight %t", r.id, r.event, r.hook, r.status, r.attempts, r.claim != nil && !r.status.Final())
		equal(m.x, "delivery", got, want)
		if r.status.Final() {
			m.x.instant("Delivery.FinishedAt", d.FinishedAt, r.ended)
		} else {
			m.x.instant("Delivery.NextAt", d.NextAt, r.due)
		}
	}
}

// compareHooks ends the case unless the store has the webhooks, and has counted the attempts, that the model has.
func (m *model) compareHooks() {
	for _, id := range slices.Sorted(maps.Keys(m.hooks)) {
		m.x.sameHealth("of the model", m.x.webhook(id), *m.hooks[id])
	}
	m.x.rates("of the model", postrider.StatsQuery{}, m.tries)
	if id, ok := pick(m, m.names); ok {
		own := slices.DeleteFunc(slices.Clone(m.tries), func(a tallied) bool { return a.hook != id })
		m.x.rates("of a webhook of the model", postrider.StatsQuery{WebhookID: id}, own)
	}
}

func pick[T any](m *model, list []T) (v T, ok bool) {
	if len(list) == 0 {
		return v, false
	}
	return list[m.rnd.IntN(len(list))], true
}
