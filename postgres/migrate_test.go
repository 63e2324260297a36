package postgres_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/postgres"
)

// noSchema returns the options of a schema that is not there yet.
func noSchema(t testing.TB) postgres.Options {
	t.Helper()
	need(t)
	o := postgres.Options{Schema: fmt.Sprintf("test_%d_%d", os.Getpid(), schemas.Add(1)), UnsafeNoFsync: unsafe}
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+o.Schema+" CASCADE")
		require.NoError(t, err)
	})
	return o
}

// runSQL runs statements in one transaction, as a migration tool does.
func runSQL(t testing.TB, p *pgxpool.Pool, text string) error {
	c, err := p.Acquire(t.Context())
	require.NoError(t, err)
	defer c.Release()
	_, err = c.Conn().PgConn().Exec(t.Context(), "BEGIN;"+text+";COMMIT").ReadAll()
	if err != nil {
		_, back := c.Exec(t.Context(), "ROLLBACK")
		require.NoError(t, back)
	}
	return err
}

// columns describes a schema: every column and index.
func columns(t testing.TB, schema string) (text string) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `
		SELECT string_agg(line, E'\n' ORDER BY line) FROM (
			SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) AS line
			FROM information_schema.columns WHERE table_schema = $1
			UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = $1) l`, schema).Scan(&text))
	return strings.ReplaceAll(text, schema, "SCHEMA")
}

func TestMigrationSQLIsWhatMigrateDoes(t *testing.T) {
	t.Parallel()
	want := columns(t, fresh(t).Schema)
	require.Greater(t, len(want), 2000)
	for middle := range postgres.Version { // in one go, and in two
		o := noSchema(t)
		for _, step := range [][2]int{{0, middle}, {middle, postgres.Version}} {
			if step[0] == step[1] {
				continue
			}
			text, err := postgres.MigrationSQL(step[0], step[1])
			require.NoError(t, err)
			require.NotContains(t, text, "~")
			text = strings.ReplaceAll(text, `"postrider"`, o.Schema)
			require.NoError(t, runSQL(t, pool, text))
			require.ErrorContains(t, runSQL(t, pool, text), "the schema does not have version")
		}
		require.Equal(t, want, columns(t, o.Schema))
		open(t, o)
		require.NoError(t, postgres.Migrate(t.Context(), pool, o), "nothing is left to do")
	}
	for _, step := range [][2]int{{-1, 1}, {0, 0}, {1, 1}, {2, 1}, {0, postgres.Version + 1}} {
		_, err := postgres.MigrationSQL(step[0], step[1])
		require.ErrorContains(t, err, "no migration from version", "%v", step)
	}
}

func TestMigrateFromFiveProcesses(t *testing.T) {
	t.Parallel()
	o := noSchema(t)
	var list []*child
	for n := range 5 {
		list = append(list, startChild(t, "migrate", n, pool.Config().ConnString(), o.Schema, func(string) {}))
	}
	for _, c := range list {
		c.read.Wait()
		require.NoError(t, c.Wait(), &c.stderr)
	}
	open(t, o)
}
