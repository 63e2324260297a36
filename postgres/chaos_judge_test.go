package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// judge is the receiver of the chaos test. Its log is what everything is judged by.
type judge struct {
	*httptest.Server

	mu       sync.Mutex
	log      map[string][]visit // by delivery, in the order of arrival
	tokens   map[string]int     // the process that sent something under it
	accepted map[string]bool    // "<webhook> <event>" that were answered 200
	last     map[string]int     // by webhook and lane: the last place that arrived first
	faults   []string
}

// visit is one request.
type visit struct {
	process int
	token   string
	claimed time.Time // at the earliest
	at      time.Time
	attempt int
	code    int // what was answered; 0: nobody heard it
}

func newJudge(t *testing.T) *judge {
	j := &judge{log: map[string][]visit{}, tokens: map[string]int{}, accepted: map[string]bool{}, last: map[string]int{}}
	j.Server = httptest.NewServer(j)
	t.Cleanup(j.Close)
	return j
}

func (j *judge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := visit{at: time.Now(), token: r.Header.Get(headerToken)}
	v.process, _ = strconv.Atoi(r.Header.Get(headerProcess))
	v.attempt, _ = strconv.Atoi(r.Header.Get(headerAttempt))
	claimed, _ := strconv.ParseInt(r.Header.Get(headerClaimed), 10, 64)
	v.claimed = time.UnixMicro(claimed)
	delivery, event, hook := r.Header.Get(headerDelivery), r.Header.Get("Webhook-Id"), r.URL.Path[1:]
	j.mu.Lock()
	n := len(j.log[delivery])
	j.log[delivery] = append(j.log[delivery], v)
	j.tokens[v.token] = v.process
	if lane, place, _ := strings.Cut(event, "-"); n == 0 && !strings.HasPrefix(lane, "free") {
		p, _ := strconv.Atoi(place)
		if last := j.last[hook+lane]; p <= last {
			j.faults = append(j.faults, fmt.Sprintf("lane %s at %s: place %d arrives after %d", lane, hook, p, last))
		}
		j.last[hook+lane] = p
	}
	j.mu.Unlock()
	select {
	case <-time.After(time.Duration(rand.IntN(30)) * time.Millisecond):
	case <-r.Context().Done():
	}
	code := http.StatusOK
	if rand.IntN(10) == 0 {
		code = http.StatusInternalServerError
	}
	if r.Context().Err() != nil {
		code = 0
	}
	j.mu.Lock()
	j.log[delivery][n].code = code
	if code == http.StatusOK {
		j.accepted[hook+" "+event] = true
	}
	j.mu.Unlock()
	if code > 0 {
		w.WriteHeader(code)
	}
}

// verdict is what the log says in the end.
type verdict struct {
	requests, deliveries int
	twice                int           // accepted more than once: all but the first
	takenOver            int           // sent again because their process was killed before it recorded the outcome
	unseen               int           // leases in between of which no request arrived: that process was killed as well
	latest               time.Duration // of those, the longest from the end of the last lease to the next request
	faults               []string
}

// lease is what the server noted of a claim.
type lease struct {
	token string
	until time.Time
}

// sentence judges the log. held says, of every process that was killed, the tokens whose lease it left behind; leases are
// all that a delivery ever had, in their order.
func (j *judge) sentence(held map[int]map[string]bool, leases map[string][]lease) (r verdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r.faults, r.deliveries = j.faults, len(j.log)
	for id, visits := range j.log {
		good, tokens := 0, map[string]bool{}
		for n, v := range visits {
			r.requests++
			if v.code == http.StatusOK {
				good++
			}
			if tokens[v.token] {
				r.faults = append(r.faults, fmt.Sprintf("%s: two requests of one claim", id))
			}
			tokens[v.token] = true
			if n+1 == len(visits) {
				continue
			}
			next := visits[n+1]
			switch {
			case next.attempt == v.attempt+1: // its outcome was recorded
				if v.code == http.StatusOK {
					r.faults = append(r.faults, fmt.Sprintf("%s: sent again after it was delivered", id))
				}
			case next.attempt != v.attempt:
				r.faults = append(r.faults, fmt.Sprintf("%s: attempt %d after %d", id, next.attempt, v.attempt))
			default:
				r.takenOver++
				free := v.claimed.Add(chaosLease)
				if next.at.Before(free) {
					r.faults = append(r.faults, fmt.Sprintf("%s: sent under two leases, %v too early", id, free.Sub(next.at)))
				}
				if !held[v.process][v.token] {
					r.faults = append(r.faults, fmt.Sprintf("%s: sent again, though process %d was not killed with it", id, v.process))
				}
				list := leases[id]
				from := slices.IndexFunc(list, func(l lease) bool { return l.token == v.token })
				to := slices.IndexFunc(list, func(l lease) bool { return l.token == next.token })
				if from < 0 || to <= from {
					r.faults = append(r.faults, fmt.Sprintf("%s: leases %+v, not one and then another", id, list))
					continue
				}
				r.unseen += to - from - 1
				r.latest = max(r.latest, next.at.Sub(list[to-1].until))
			}
		}
		r.twice += max(0, good-1)
	}
	return r
}
