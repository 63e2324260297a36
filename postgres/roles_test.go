package postgres_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// grants returns the statements of docs/postgres.md that give a role what it needs.
func grants(t *testing.T, schema, role string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/postgres.md")
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(text), "```sql\nGRANT")
	require.True(t, ok)
	list, _, _ := strings.Cut("GRANT"+after, "```")
	return strings.NewReplacer("postrider", schema, "TO app", "TO "+role).Replace(list)
}

// roleOf returns a pool whose role has just those rights.
func roleOf(t *testing.T, schema, grants string) *pgxpool.Pool {
	t.Helper()
	role := schema + "_app"
	require.NoError(t, runSQL(t, pool, "CREATE ROLE "+role+";"+grants))
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP OWNED BY "+role)
		require.NoError(t, err)
		_, err = pool.Exec(context.Background(), "DROP ROLE "+role)
		require.NoError(t, err)
	})
	c := pool.Config()
	c.ConnConfig.RuntimeParams["role"] = role
	mine, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(mine.Close)
	_, err = mine.Exec(t.Context(), "CREATE TABLE "+schema+".own (id int)")
	require.ErrorContains(t, err, "permission denied", "it is not the owner")
	return mine
}

// The grants of docs/postgres.md are enough for everything but migrations.
func TestDocumentedGrantsAreEnough(t *testing.T) {
	t.Parallel()
	o := settings(t)
	mine := roleOf(t, o.Schema, grants(t, o.Schema, o.Schema+"_app"))
	s, err := postgres.New(mine, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	d := deskOn(t, s, postrider.Config{}, &log{}, codes(500, 200))
	d.hook("a")
	d.hook("b", func(w *postrider.Webhook) { w.Ordered = true })
	ids := d.emit("t", 5)
	stop := d.run()
	d.ends(postrider.StatusDelivered, ids...)
	stop()
	_, err = s.RollUp(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Coarsen(t.Context()))
	n, _, err := s.Prune(t.Context(), 0, 100)
	require.NoError(t, err)
	require.Equal(t, len(ids), n)
	require.NoError(t, d.DeleteWebhook(t.Context(), "a"))
	require.NoError(t, postgres.Migrate(t.Context(), mine, o), "there is nothing to do")
}

// With them a program makes partitions and drops them, though it can make no table of its own, and call nothing else.
func TestDocumentedGrantsAreEnoughForPartitions(t *testing.T) {
	t.Parallel()
	p := newPast(t, 8)
	p.ends(p.emit("1"))
	require.NoError(t, p.AgeIDs(t.Context(), 6*day))
	p.dropPartitions("starts > now()")
	mine := roleOf(t, p.o.Schema, grants(t, p.o.Schema, p.o.Schema+"_app"))
	_, err := mine.Exec(t.Context(), "SELECT "+p.o.Schema+".put_part(now(), now() + interval '1 day')")
	require.ErrorContains(t, err, "permission denied")
	s, err := postgres.New(mine, p.o)
	require.NoError(t, err)
	n, err := s.AddPartitions(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	p.Store = s
	p.SetPartitions(-1)
	require.Contains(t, p.prune(retention), 1)
	require.Empty(t, p.parts("delivery")+p.parts("event"))
	st, err := s.Partitions(t.Context())
	require.NoError(t, err)
	require.Greater(t, st.Ahead, 3*day)
	require.Empty(t, p.log.String())
}

// Without the right to call them rows go to the default partitions, and are deleted one by one. It is logged once.
func TestWithoutTheRightToMakePartitionsEverythingWorks(t *testing.T) {
	t.Parallel()
	p := newPast(t, 8)
	old := p.emit("1")
	p.ends(old)
	require.NoError(t, p.AgeIDs(t.Context(), 6*day))
	p.dropPartitions("ends > now()")
	before := p.parts("delivery")
	list := strings.Split(grants(t, p.o.Schema, p.o.Schema+"_app"), "\n")
	list = slices.DeleteFunc(list, func(line string) bool { return strings.Contains(line, "EXECUTE") })
	require.Len(t, list, 3, "two grants are left, and the end")
	s, err := postgres.New(roleOf(t, p.o.Schema, strings.Join(list, "\n")), p.o)
	require.NoError(t, err)
	s.SetPartitions(0)
	p.Store = s
	for range 3 {
		p.emit(fmt.Sprint(time.Now().UnixNano()))
		claims, _, err := p.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Hour})
		require.NoError(t, err)
		require.Len(t, claims, 1)
		failed := again(claims[0])
		failed.Status = postrider.StatusFailed
		_, err = p.Complete(t.Context(), []postrider.Outcome{failed})
		require.NoError(t, err)
	}
	st, err := p.Partitions(t.Context())
	require.NoError(t, err)
	require.Equal(t, [3]int{3, 3, 3}, [3]int{st.Events, st.Deliveries, st.Attempts})
	require.Equal(t, []int{1}, p.prune(retention))
	require.Equal(t, before, p.parts("delivery"), "it is not dropped, but empty")
	require.Equal(t, "3", p.rows("delivery"))
	for _, message := range []string{"partitions cannot be made", "partitions cannot be dropped"} {
		require.Equal(t, 1, strings.Count(p.log.String(), message), p.log)
	}
}
