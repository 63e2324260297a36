package postgres_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// callers are the ways to hold a transaction of one's own: each runs a statement, emits, and ends it.
func callers(t *testing.T, d *desk) map[string]func(statement string, e postrider.Event, commit bool) (string, error) {
	db := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return map[string]func(string, postrider.Event, bool) (string, error){
		"pgx": func(statement string, e postrider.Event, commit bool) (id string, err error) {
			tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{})
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), statement)
			require.NoError(t, err)
			r, err := d.In(d.store.Tx(tx)).Emit(t.Context(), e)
			require.NoError(t, err)
			require.Len(t, r.Deliveries, 1)
			if commit {
				return r.Deliveries[0], tx.Commit(t.Context())
			}
			return r.Deliveries[0], tx.Rollback(t.Context())
		},
		"database-sql": func(statement string, e postrider.Event, commit bool) (id string, err error) {
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{})
			require.NoError(t, err)
			_, err = tx.ExecContext(t.Context(), statement)
			require.NoError(t, err)
			r, err := d.In(d.store.SQLTx(tx)).Emit(t.Context(), e)
			require.NoError(t, err)
			require.Len(t, r.Deliveries, 1)
			if commit {
				return r.Deliveries[0], tx.Commit()
			}
			return r.Deliveries[0], tx.Rollback()
		},
	}
}

// The rows of the caller and the events stand or fall together, and Run finds the commit by itself: here polling would
// take an hour.
func TestEventsOfTheCallersTransactionAreDelivered(t *testing.T) {
	t.Parallel()
	o := settings(t)
	o.Poll = time.Hour
	d := deskOn(t, open(t, o), postrider.Config{}, &log{}, codes(200))
	t.Cleanup(func() { require.NoError(t, d.store.Close()) })
	d.hook("a")
	_, err := pool.Exec(t.Context(), "CREATE TABLE "+o.Schema+".own (id text PRIMARY KEY)")
	require.NoError(t, err)
	stop := d.run()
	want := map[string]bool{}
	for name, emit := range callers(t, d) {
		for n := range 6 {
			id, commit := fmt.Sprint(name, n), n%2 == 0
			delivery, err := emit(fmt.Sprintf("INSERT INTO %s.own VALUES ('%s')", o.Schema, id),
				postrider.Event{ID: id, Project: "p", Type: "t", Payload: []byte(`{}`)}, commit)
			require.NoError(t, err)
			if commit {
				d.ends(postrider.StatusDelivered, delivery)
				want[id] = true
				continue
			}
			_, err = d.Delivery(t.Context(), delivery)
			require.ErrorIs(t, err, postrider.ErrNotFound)
			_, err = d.Event(t.Context(), "p", id)
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
	}
	stop()
	rows, err := pool.Query(t.Context(), "SELECT id FROM "+o.Schema+".own")
	require.NoError(t, err)
	own, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	got := map[string]bool{}
	for _, c := range d.seen("") {
		got[c.EventID] = true
	}
	require.Equal(t, want, got)
	require.Len(t, own, len(want))
	for _, id := range own {
		require.True(t, want[id])
	}
}

// A caller may keep its transaction open for long, in a lane too: others go on, and only the lane waits.
func TestLongTransactionHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{}, codes(200))
	d.hook("a")
	keyed := func(id, key string) postrider.Event {
		return postrider.Event{ID: id, Project: "p", Type: "t", OrderKey: key, Payload: []byte(`{}`)}
	}
	first, err := d.Emit(t.Context(), keyed("first", "k"))
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	second, err := d.In(d.store.Tx(tx)).Emit(t.Context(), keyed("second", "k"))
	require.NoError(t, err)
	d.run()
	d.ends(postrider.StatusDelivered, first.Deliveries...)
	other, err := d.Emit(t.Context(), keyed("other", "l"))
	require.NoError(t, err)
	d.ends(postrider.StatusDelivered, other.Deliveries...)
	require.NoError(t, tx.Commit(t.Context()))
	d.ends(postrider.StatusDelivered, second.Deliveries...)
}
