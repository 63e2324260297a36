package storetest_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/storetest"
)

// handle is one handle on a store in memory. Closing one leaves the others open, as closing a connection does.
type handle struct {
	*memstore.Store
	own    bool // Close closes the store
	closed atomic.Bool
}

func (h *handle) Close() error {
	if h.own {
		return h.Store.Close()
	}
	h.closed.Store(true)
	return nil
}

// correct is a harness with everything: a store in memory is opened again, and shared, by handing on what is in it.
func correct() storetest.Harness {
	return storetest.Harness{
		Open: func(_ *testing.T, now func() time.Time) postrider.Store {
			return &handle{Store: memstore.New(memstore.Options{Now: now}), own: true}
		},
		Reopen: func(_ *testing.T, s postrider.Store, _ func() time.Time) postrider.Store {
			return &handle{Store: s.(*handle).Store, own: true}
		},
		Begin: func(_ *testing.T, s postrider.Store) storetest.Tx { return s.(*handle).Begin() },
		Shared: func(_ *testing.T, s postrider.Store, _ func() time.Time) postrider.Store {
			return &handle{Store: s.(*handle).Store}
		},
	}
}

func TestCorrectStorePasses(t *testing.T) {
	storetest.Run(t, correct())
}
