package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Version is the version of the schema that this package works with.
const Version = 1

//go:embed migrations
var migrations embed.FS

// Migrate brings the schema to Version, all of it in one transaction. It does nothing if it is there already, and refuses
// a schema that is newer. Any number of processes may call it at once.
func Migrate(ctx context.Context, pool *pgxpool.Pool, o Options) error {
	schema, err := quoted(o.Schema)
	if err != nil {
		return err
	}
	for n := range tries {
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return migrate(ctx, tx, schema) })
		if err == nil || !raced(err) || !pause(ctx, n) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("postgres: migrate: %w", err)
	}
	return nil
}

// raced reports whether the error is what two get who create the same at once: IF NOT EXISTS does not help then.
func raced(err error) bool {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return false
	}
	switch server.Code {
	case "23505", "42P06", "42P07", "42710", "40001", "40P01", "XX000":
		return true
	}
	return false
}

const (
	firstSQL = `
CREATE SCHEMA IF NOT EXISTS ~;
CREATE TABLE IF NOT EXISTS ~.migration (version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());`

	lockSQL = `
LOCK TABLE ~.migration IN SHARE ROW EXCLUSIVE MODE;`

	// isSQL refuses a schema of another version.
	isSQL = `
DO $$ BEGIN
	IF (SELECT coalesce(max(version), 0) FROM ~.migration) <> %d THEN
		RAISE EXCEPTION 'the schema does not have version %[1]d';
	END IF;
END $$;`
)

func migrate(ctx context.Context, tx pgx.Tx, schema string) error {
	var there bool
	err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, schema+".migration").Scan(&there)
	if err != nil {
		return err
	}
	text := firstSQL + lockSQL
	if there { // so that no right to create anything is needed
		text = lockSQL
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, strings.ReplaceAll(text, "~", schema)).ReadAll(); err != nil {
		return err
	}
	have, err := schemaVersion(ctx, tx, schema)
	if err != nil {
		return err
	}
	if have > Version {
		return checkVersion(have)
	}
	for v := have + 1; v <= Version; v++ {
		text, err := migrations.ReadFile(fmt.Sprintf("migrations/%03d.sql", v))
		if err != nil {
			return err
		}
		if _, err := tx.Conn().PgConn().Exec(ctx, strings.ReplaceAll(string(text), "~", schema)).ReadAll(); err != nil {
			return fmt.Errorf("to version %d: %w", v, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO `+schema+`.migration (version) VALUES ($1)`, v); err != nil {
			return err
		}
	}
	return nil
}

// MigrationSQL returns what Migrate does to bring a schema from one version to a later one, as text, for goose, atlas or
// a DBA: from is 0 where there is none yet, to at most Version. It is of the schema "postrider"; for another, replace
// that name where it stands in double quotes. It is to be run in one transaction, and fails on a schema of another
// version than from.
func MigrationSQL(from, to int) (string, error) {
	if from < 0 || from >= to || to > Version {
		return "", fmt.Errorf("postgres: no migration from version %d to %d, want 0 or more, and a later one, up to %d",
			from, to, Version)
	}
	schema, err := quoted("")
	if err != nil {
		return "", err
	}
	first := lockSQL
	if from == 0 {
		first = firstSQL + lockSQL
	}
	var b strings.Builder
	b.WriteString(first + fmt.Sprintf(isSQL, from) + "\n")
	for v := from + 1; v <= to; v++ {
		text, err := migrations.ReadFile(fmt.Sprintf("migrations/%03d.sql", v))
		if err != nil {
			return "", fmt.Errorf("postgres: %w", err)
		}
		fmt.Fprintf(&b, "\n-- To version %d.\n\n%s\nINSERT INTO ~.migration (version) VALUES (%[1]d);\n", v, text)
	}
	return strings.TrimLeft(strings.ReplaceAll(b.String(), "~", schema), "\n"), nil
}

// schemaVersion returns the version of the schema, 0 if there is none.
func schemaVersion(ctx context.Context, q querier, schema string) (have int, err error) {
	rows, err := q.Query(ctx, `SELECT to_regclass($1) IS NOT NULL`, schema+".migration")
	if err != nil {
		return 0, fmt.Errorf("postgres: %w", err)
	}
	if there, err := pgx.CollectOneRow(rows, pgx.RowTo[bool]); err != nil || !there {
		return 0, err
	}
	rows, err = q.Query(ctx, `SELECT coalesce(max(version), 0) FROM `+schema+`.migration`)
	if err != nil {
		return 0, fmt.Errorf("postgres: %w", err)
	}
	return pgx.CollectOneRow(rows, pgx.RowTo[int])
}

func checkVersion(have int) error {
	switch {
	case have > Version:
		return fmt.Errorf("postgres: the schema has version %d, which is newer than %d, the one this program knows", have, Version)
	case have < Version:
		return fmt.Errorf("postgres: the schema has version %d, want %d: call postgres.Migrate first", have, Version)
	}
	return nil
}
