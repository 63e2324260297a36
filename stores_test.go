package postrider_test

import (
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/memstore"
)

// eachStore runs a test on every store there is. Each call of open makes an empty store, which is closed at the end of
// the t that it is given; in a bubble that is the bubble's own.
func eachStore(t *testing.T, test func(t *testing.T, open func(t *testing.T) postrider.Store)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, func(t *testing.T) postrider.Store {
			t.Helper()
			store := memstore.New(memstore.Options{})
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			return store
		})
	})
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		test(t, func(t *testing.T) postrider.Store {
			t.Helper()
			store, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			return store
		})
	})
}

// onBothStores runs a test in a bubble of its own on each store.
func onBothStores(t *testing.T, test func(t *testing.T, store postrider.Store)) {
	t.Helper()
	eachStore(t, func(t *testing.T, open func(t *testing.T) postrider.Store) {
		synctest.Test(t, func(t *testing.T) { test(t, open(t)) })
	})
}
