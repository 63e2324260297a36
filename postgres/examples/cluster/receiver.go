package main

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"time"
)

const (
	headerProcess  = "X-Process"
	headerDelivery = "X-Delivery"
)

// receiver is what is usually somebody else's program. It takes its time over each request.
type receiver struct {
	*httptest.Server

	mu       sync.Mutex // guards what follows
	flight   map[request]bool
	accepted map[string][]request // by delivery
}

// request is one that was received.
type request struct {
	process  string
	delivery string
	at       time.Time
}

func newReceiver() *receiver {
	r := &receiver{flight: map[request]bool{}, accepted: map[string][]request{}}
	r.Server = httptest.NewServer(r)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	v := request{q.Header.Get(headerProcess), q.Header.Get(headerDelivery), time.Now()}
	r.mu.Lock()
	r.flight[v] = true
	r.mu.Unlock()
	answers := true
	select {
	case <-time.After(thinks):
	case <-q.Context().Done(): // whoever asked is gone
		answers = false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, there := r.flight[v]; !there {
		answers = false // it was lost
	}
	delete(r.flight, v)
	if answers {
		r.accepted[v.delivery] = append(r.accepted[v.delivery], v)
	}
}

// flying returns how many requests of a process are in flight.
func (r *receiver) flying(process string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range r.flight {
		if v.process == process {
			n++
		}
	}
	return n
}

// lose gives up the requests of a process that is no more, and returns them.
func (r *receiver) lose(process string) (list []request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range r.flight {
		if v.process == process {
			list = append(list, v)
			delete(r.flight, v)
		}
	}
	return list
}

// answered returns the request that brought a delivery.
func (r *receiver) answered(delivery string) (request, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.accepted[delivery]
	if len(list) == 0 {
		return request{}, false
	}
	return list[0], true
}

// done returns how many deliveries have arrived.
func (r *receiver) done() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.accepted)
}

// by returns how many of them a process brought.
func (r *receiver) by(process string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, list := range r.accepted {
		if list[0].process == process {
			n++
		}
	}
	return n
}

// twice returns how many arrived more than once: the answer had come, and the process died before it could record it.
func (r *receiver) twice() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, list := range r.accepted {
		n += min(1, len(list)-1)
	}
	return n
}
