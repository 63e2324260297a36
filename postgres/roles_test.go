package postgres_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// The grants of docs/postgres.md are enough for everything but migrations.
func TestDocumentedGrantsAreEnough(t *testing.T) {
	t.Parallel()
	o := settings(t)
	role := o.Schema + "_app"
	text, err := os.ReadFile("../docs/postgres.md")
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(text), "```sql\nGRANT")
	require.True(t, ok)
	grants, _, _ := strings.Cut("GRANT"+after, "```")
	grants = strings.NewReplacer("postrider", o.Schema, "TO app", "TO "+role).Replace(grants)
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

	_, err = mine.Exec(t.Context(), "CREATE TABLE "+o.Schema+".own (id int)")
	require.ErrorContains(t, err, "permission denied", "it is not the owner")
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
