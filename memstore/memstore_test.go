package memstore_test

import (
	"testing"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(_ *testing.T, now func() time.Time) postrider.Store {
			return memstore.New(memstore.Options{Now: now})
		},
		Begin: func(_ *testing.T, s postrider.Store) storetest.Tx {
			return s.(*memstore.Store).Begin()
		},
	})
}
