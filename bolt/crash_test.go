package bolt_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// TestKilledAtAnyMoment kills a process that emits and delivers, again and again, and looks after each time what it
// has left in the file. The receiver outlives them all, and knows what was really sent.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	newWreck(t, "emit").run(100)
}

// TestKilledInOwnTransactions does the same to a process that emits in transactions of its own.
func TestKilledInOwnTransactions(t *testing.T) {
	t.Parallel()
	newWreck(t, "emit tx").run(30)
}

// wreck is one file, on which one process after the other is killed.
type wreck struct {
	*testing.T
	child    string
	path     string
	random   *rand.Rand
	receiver *witness

	acked map[string]string // type of every event whose Emit returned nil, by ID
	gone  map[hit]bool      // deliveries that were pruned
	known map[hit]int       // what the receiver had seen at the last inspection
	again int               // outcomes that were lost with their process: what it sent and did not bring into the file
	worst int               // the most of them in one kill
}

func newWreck(t *testing.T, child string) *wreck {
	return &wreck{
		T: t, child: child, path: filepath.Join(t.TempDir(), "webhooks.db"), random: randomOf(t), receiver: newWitness(t),
		acked: map[string]string{}, gone: map[hit]bool{},
	}
}

func (w *wreck) run(cycles int) {
	if testing.Short() {
		cycles = 10
	}
	for i := range cycles {
		w.kill()
		checkFile(w.T, w.path)
		w.inspect(i%10 == 9)
	}
	w.drain()

	extra := 0
	w.receiver.mu.Lock()
	for _, n := range w.receiver.hits {
		extra += n - 1
	}
	hits := len(w.receiver.hits)
	require.Empty(w, w.receiver.unsorted)
	require.NotEmpty(w, w.receiver.last)
	w.receiver.mu.Unlock()
	w.Logf("%d kills, %d events acknowledged, %d deliveries; %d sent again, %d under way at the kills: %.1f a kill, at most %d",
		cycles, len(w.acked), hits, extra, w.again, float64(extra)/float64(cycles), w.worst)
	// A request in flight when the process was killed, or an outcome that was not on disk then, is one hit more.
	require.LessOrEqual(w, extra, w.again, "more was sent twice than was under way at the kills")
	require.NotEmpty(w, w.acked)
}

// kill starts a process and kills it at a random moment after its first acknowledgement.
func (w *wreck) kill() {
	c := startChild(w.T, w.child, w.path, urlEnv+"="+w.receiver.URL, seedEnv+"="+strconv.FormatUint(w.random.Uint64()>>16, 10))
	first := true
	for {
		line, ok := c.line()
		if !ok {
			break
		}
		id, typ, ok := strings.Cut(strings.TrimPrefix(line, "ack "), " ")
		if !ok || !strings.HasPrefix(line, "ack ") {
			w.Logf("the process says: %s", line)
			continue
		}
		w.acked[id] = typ
		if first {
			first = false
			time.AfterFunc(time.Duration(w.random.IntN(60_000))*time.Microsecond, func() { _ = c.Process.Kill() })
		}
	}
	err := c.Wait()
	require.ErrorContains(w, err, "signal: killed", "the process ended by itself: %s", c.stderr.String())
	require.NoError(w, w.receiver.settle())
}

// open opens the store in the file, the program's own rows too, as the process does.
func (w *wreck) open() (store *bolt.Store, rows map[string]string, shut func()) {
	if w.child == "emit" {
		store, err := bolt.Open(w.path, bolt.Options{})
		require.NoError(w, err)
		return store, nil, func() { require.NoError(w, store.Close()) }
	}
	db, err := bbolt.Open(w.path, 0o600, &bbolt.Options{Timeout: time.Second})
	require.NoError(w, err)
	rows = map[string]string{}
	require.NoError(w, db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(ownRows).ForEach(func(k, v []byte) error {
			rows[string(k)] = string(v)
			return nil
		})
	}))
	store, err = bolt.New(db, bolt.Options{})
	require.NoError(w, err)
	return store, rows, func() {
		require.NoError(w, store.Close())
		require.NoError(w, db.Close())
	}
}

// inspect opens the store and compares what is in it with its counters, with what was acknowledged and with what the
// receiver has seen.
func (w *wreck) inspect(prune bool) {
	store, rows, shut := w.open()
	defer shut()
	require.NoError(w, store.Check())
	deliveries := w.walk(store)

	made := map[string]map[string]bool{} // names of webhooks by event
	typeOf := map[string]string{}
	lost := 0
	hits := w.receiver.seen()
	for _, v := range deliveries {
		if made[v.EventID] == nil {
			made[v.EventID] = map[string]bool{}
		}
		require.False(w, made[v.EventID][v.WebhookName], "two deliveries of event %s to %s", v.EventID, v.WebhookName)
		made[v.EventID][v.WebhookName] = true
		typeOf[v.EventID] = v.EventType
		h := hit{v.EventID, v.WebhookName}
		switch {
		case v.Status == postrider.StatusDelivered:
			require.Positive(w, hits[h], "event %s to %s is DELIVERED, and was never sent", v.EventID, v.WebhookName)
		case hits[h] > w.known[h]:
			lost++
		}
	}
	w.known = hits
	w.again += lost
	w.worst = max(w.worst, lost)

	for h := range w.gone {
		if made[h.event] == nil {
			made[h.event] = map[string]bool{}
		}
		require.False(w, made[h.event][h.webhook], "event %s to %s was pruned, and is there", h.event, h.webhook)
		made[h.event][h.webhook] = true
	}
	calls := map[string]int{}
	for id, names := range made {
		if typ, ok := typeOf[id]; ok {
			require.Len(w, names, len(audienceOf(typ)), "event %s of type %s is stored in part", id, typ)
			_, err := store.Event(w.Context(), "", id)
			require.NoError(w, err)
		}
		calls[id[:strings.LastIndexByte(id, '-')]]++
	}
	for call, n := range calls {
		require.True(w, strings.HasSuffix(call, fmt.Sprintf("-%d", n)), "%d events of call %s are there", n, call)
	}
	for id, typ := range w.acked {
		require.Len(w, made[id], len(audienceOf(typ)), "event %s was acknowledged, and is not there", id)
	}
	if rows != nil {
		require.True(w, maps.Equal(rows, typeOf), "%d rows of the program, %d events", len(rows), len(typeOf))
	} else if prune {
		w.prune(store, deliveries)
	}
}

// walk returns all deliveries, having compared them with the counters.
func (w *wreck) walk(store *bolt.Store) (list []postrider.Delivery) {
	var counted postrider.Stats
	q := postrider.DeliveryQuery{Ascending: true, Limit: postrider.MaxLimit}
	for {
		page, err := store.Deliveries(w.Context(), q)
		require.NoError(w, err)
		list = append(list, page.Items...)
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	for _, v := range list {
		*counted.Count(v.Status)++
		require.False(w, v.InFlight)
	}
	before := time.Now()
	stats, err := store.Stats(w.Context(), postrider.StatsQuery{})
	require.NoError(w, err)
	open := turns(list, laneOf)
	least, oldest := dueAt(open, before)
	most, _ := dueAt(open, time.Now())
	require.True(w, least <= stats.Due && stats.Due <= most, "%d are due, counted %d", least, stats.Due)
	if !oldest.IsZero() {
		require.Equal(w, oldest, stats.OldestDue)
	}
	counted.Due, counted.OldestDue = stats.Due, stats.OldestDue
	counted.Pruned, counted.AttemptsOK, counted.AttemptsFailed = stats.Pruned, stats.AttemptsOK, stats.AttemptsFailed
	require.Equal(w, counted, stats, "counted and counters")
	require.GreaterOrEqual(w, stats.AttemptsOK, stats.Delivered)
	return list
}

// laneOf returns the lane of a delivery, "" if it has none.
func laneOf(d postrider.Delivery) string {
	key := strings.Split(d.EventID, "-")[1]
	switch {
	case d.WebhookName == "c3": // it is Ordered
		return d.WebhookName
	case key == "":
		return ""
	}
	return d.WebhookName + " " + key
}

// prune takes ended deliveries away, so that the walks stay short.
func (w *wreck) prune(store *bolt.Store, deliveries []postrider.Delivery) {
	ended := 0
	for _, v := range deliveries {
		if v.Status.Final() {
			w.gone[hit{v.EventID, v.WebhookName}] = true
			ended++
		}
	}
	for more := true; more; {
		n, again, err := store.Prune(w.Context(), 0, 1000)
		require.NoError(w, err)
		ended, more = ended-n, again
	}
	require.Zero(w, ended, "ended deliveries that were not pruned")
}

// drain delivers what is left, and checks that the receiver got everything that was acknowledged.
func (w *wreck) drain() {
	store, _, shut := w.open()
	defer shut()
	d := crashing(w.T, store, w.receiver.URL)
	ctx, cancel := context.WithCancel(w.Context())
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	// A flaky webhook has one request at a time, which takes as long as it takes. What must not be is standing still.
	attempts, moved, drained := int64(0), time.Now(), false
	for tick := time.NewTicker(5 * time.Millisecond); !drained && time.Since(moved) < 20*time.Second; <-tick.C {
		s, err := d.Stats(w.Context(), postrider.StatsQuery{})
		require.NoError(w, err)
		if now := s.AttemptsOK + s.AttemptsFailed; now != attempts {
			attempts, moved = now, time.Now()
		}
		drained = s.Open() == 0
	}
	if !drained { // show what is stuck
		w.Log(d.Stats(w.Context(), postrider.StatsQuery{}))
		open := postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusNew, postrider.StatusInProcess}}
		for v, err := range d.All(w.Context(), open) {
			w.Logf("%+v %v", v, err)
		}
		w.Error("nothing has moved for 20 s, though deliveries are open")
	}
	cancel()
	require.NoError(w, <-ran)
	require.NoError(w, store.Check())
	for _, v := range w.walk(store) {
		require.Equal(w, postrider.StatusDelivered, v.Status)
	}
	hits := w.receiver.seen()
	for id, typ := range w.acked {
		for _, name := range audienceOf(typ) {
			require.Positive(w, hits[hit{id, name}], "event %s, which was acknowledged, has not reached %s", id, name)
		}
	}
	for h := range hits {
		require.NotEqual(w, "none", h.webhook)
	}
}

// hit is an event that reached a webhook.
type hit struct{ event, webhook string }

// witness is the receiver. It answers 500 to some requests of webhooks that are named flaky.
type witness struct {
	*httptest.Server
	idle chan struct{} // buffered(1): a connection has ended

	mu       sync.Mutex
	hits     map[hit]int // requests that were answered 200
	last     map[string]place
	unsorted []string // what came before an event with the same order key that had been stored before
	requests int
	open     int // connections
}

func newWitness(t *testing.T) *witness {
	s := &witness{idle: make(chan struct{}, 1), hits: map[hit]int{}, last: map[string]place{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.open++
		case http.StateClosed, http.StateHijacked:
			s.open--
			select {
			case s.idle <- struct{}{}:
			default:
			}
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *witness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method == http.MethodHead {
		return // its sender was killed within it
	}
	var v struct {
		ID   string
		Size int
		Pad  string
	}
	id := r.Header.Get("Webhook-Id")
	if json.Unmarshal(body, &v) != nil || v.ID != id || len(v.Pad) != v.Size {
		panic(fmt.Sprintf("event %s arrived as %.80s", id, body))
	}
	name := r.URL.Path[1:]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.sortLocked(hit{id, name})
	if strings.HasSuffix(name, "flaky") && s.requests%3 == 0 {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	s.hits[hit{id, name}]++
}

// place is where an event stands among those that one goroutine of one process emitted.
type place struct{ call, index int }

// sortLocked notes an event that was not sent before, and comes after a later one with its order key.
func (s *witness) sortLocked(h hit) {
	part := strings.Split(h.event, "-") // seed, key, call, events of the call, index
	if part[1] == "" || s.hits[h] > 0 {
		return
	}
	var p place
	_, _ = fmt.Sscan(part[2]+" "+part[4], &p.call, &p.index)
	lane := h.webhook + " " + part[0] + " " + part[1]
	if last := s.last[lane]; p.call < last.call || p.call == last.call && p.index < last.index {
		s.unsorted = append(s.unsorted, fmt.Sprint(h, " after ", last))
	}
	s.last[lane] = p
}

// settle returns once everything that a killed process has sent was received. Connections are accepted in their order:
// once one of our own is, all of the process are known.
func (s *witness) settle() error {
	resp, err := s.Client().Head(s.URL)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	s.Client().CloseIdleConnections()
	for {
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		if open == 0 {
			return nil
		}
		<-s.idle
	}
}

func (s *witness) seen() map[hit]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.hits)
}
