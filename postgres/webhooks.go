package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
)

// Whoever writes a webhook and its project's version locks them in this order.
const (
	createHookSQL = `
WITH h AS (
	INSERT INTO ~.hook (id, project, name, owner, state, not_before, max_in_flight, hold_window, body, revision)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) ON CONFLICT DO NOTHING RETURNING no),
hold AS (INSERT INTO ~.hold SELECT no FROM h)
SELECT no FROM h`

	lockHookSQL = `SELECT no, body, statement_timestamp() FROM ~.hook WHERE id = $1 AND NOT deleted FOR UPDATE`

	updateHookSQL = `
UPDATE ~.hook SET name = $2, owner = $3, state = $4, not_before = $5, max_in_flight = $6, hold_window = $7, body = $8,
	revision = greatest(revision + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
WHERE no = $1`

	deleteHookSQL = `UPDATE ~.hook SET deleted = true WHERE no = $1`

	// Versions and revisions are not below the clock, so that none comes a second time after the server has lost some, as
	// by a failover: a process that outlives that would take its webhooks for those that are there.
	raiseProjectSQL = `
INSERT INTO ~.project AS p VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (project) DO UPDATE SET version = greatest(p.version + 1, EXCLUDED.version)`

	hookSQL = `SELECT body FROM ~.hook WHERE id = $1 AND NOT deleted`

	hooksSQL = `
SELECT no, body FROM ~.hook
WHERE no >= $1 AND NOT deleted AND ($2 = '' OR project = $2) AND ($3 = '' OR owner = $3) AND ($4 = '' OR name = $4)
ORDER BY no LIMIT $5`
)

func hookMissing(id string) error { return fmt.Errorf("webhook %q: %w", id, postrider.ErrNotFound) }

func hookTaken(w *postrider.Webhook) error {
	return fmt.Errorf("webhook %q, named %q: %w", w.ID, w.Name, postrider.ErrExists)
}

// CreateWebhook stores a new webhook.
func (s *Store) CreateWebhook(ctx context.Context, w postrider.Webhook) error {
	return s.changeHooks(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var now time.Time
		if err := tx.QueryRow(ctx, `SELECT statement_timestamp()`).Scan(&now); err != nil {
			return err
		}
		w.Version, w.CreatedAt, w.UpdatedAt = 1, now, now
		body, err := w.AppendBinary(nil)
		if err != nil {
			return err
		}
		var no int64
		err = tx.QueryRow(ctx, s.sql(createHookSQL), w.ID, w.Project, w.Name, w.Owner, int16(w.State), moment(w.NotBefore),
			w.MaxInFlight, w.Window, body).Scan(&no)
		if errors.Is(err, pgx.ErrNoRows) {
			return hookTaken(&w)
		}
		if err != nil {
			return err
		}
		return s.raise(ctx, tx, w.Project)
	})
}

// UpdateWebhook replaces a webhook.
func (s *Store) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	return s.changeHooks(ctx, func(ctx context.Context, tx pgx.Tx) error {
		no, old, now, err := s.lockHook(ctx, tx, w.ID)
		if err != nil {
			return err
		}
		if old.Version != w.Version {
			return fmt.Errorf("webhook %q has the version %d, not %d: %w", w.ID, old.Version, w.Version, postrider.ErrConflict)
		}
		fresh := w
		fresh.Project, fresh.CreatedAt, fresh.Version, fresh.UpdatedAt = old.Project, old.CreatedAt, old.Version+1, now
		if err := s.putHook(ctx, tx, no, &fresh); err != nil {
			return err
		}
		return s.raise(ctx, tx, old.Project)
	})
}

// DeleteWebhook takes a webhook away; its deliveries stay.
func (s *Store) DeleteWebhook(ctx context.Context, id string) error {
	return s.changeHooks(ctx, func(ctx context.Context, tx pgx.Tx) error {
		no, old, _, err := s.lockHook(ctx, tx, id)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, s.sql(deleteHookSQL), no); err != nil {
			return err
		}
		return s.raise(ctx, tx, old.Project)
	})
}

func (s *Store) changeHooks(ctx context.Context, f work) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := s.write(ctx, f); err != nil {
		return err
	}
	s.wake(ctx)
	return nil
}

// lockHook returns a webhook that is not deleted, and keeps others from changing it.
func (s *Store) lockHook(ctx context.Context, tx pgx.Tx, id string) (no int64, w postrider.Webhook, now time.Time, err error) {
	if !storable(id) {
		return 0, w, now, hookMissing(id)
	}
	var body []byte
	err = tx.QueryRow(ctx, s.sql(lockHookSQL), id).Scan(&no, &body, &now)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, w, now, hookMissing(id)
	}
	if err != nil {
		return 0, w, now, err
	}
	return no, w, now, w.UnmarshalBinary(body)
}

// putHook writes a webhook that is locked.
func (s *Store) putHook(ctx context.Context, tx pgx.Tx, no int64, w *postrider.Webhook) error {
	args, err := hookRow(no, w)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, s.sql(updateHookSQL), args...)
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == "23505" {
		return hookTaken(w)
	}
	return err
}

// hookRow returns the arguments of updateHookSQL.
func hookRow(no int64, w *postrider.Webhook) ([]any, error) {
	body, err := w.AppendBinary(nil)
	return []any{no, w.Name, w.Owner, int16(w.State), moment(w.NotBefore), w.MaxInFlight, w.Window, body}, err
}

func (s *Store) raise(ctx context.Context, tx pgx.Tx, project string) error {
	_, err := tx.Exec(ctx, s.sql(raiseProjectSQL), project)
	return err
}

// Webhook returns a webhook.
func (s *Store) Webhook(ctx context.Context, id string) (w postrider.Webhook, err error) {
	if err := s.enter(ctx); err != nil {
		return w, err
	}
	defer s.leave()
	if !storable(id) {
		return w, hookMissing(id)
	}
	bodies, err := ask(ctx, s, hookSQL, pgx.RowTo[[]byte], id)
	if err != nil {
		return w, err
	}
	if len(bodies) == 0 {
		return w, hookMissing(id)
	}
	return w, failure(ctx, w.UnmarshalBinary(bodies[0]))
}

// Webhooks returns a page of webhooks.
func (s *Store) Webhooks(ctx context.Context, q postrider.WebhookQuery) (page postrider.Page[postrider.Webhook], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	var from uint64
	if _, err := cursor.Decode(q.Cursor, cursor.Webhooks(q), &from); err != nil {
		return page, err
	}
	if err := s.enter(ctx); err != nil {
		return page, err
	}
	defer s.leave()
	if !storable(q.Owner, q.Name) {
		return page, nil
	}
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	type row struct {
		no   int64
		hook postrider.Webhook
	}
	rows, err := ask(ctx, s, hooksSQL, func(r pgx.CollectableRow) (v row, err error) {
		var body []byte
		if err := r.Scan(&v.no, &body); err != nil {
			return v, err
		}
		return v, v.hook.UnmarshalBinary(body)
	}, int64(from), q.Project, q.Owner, q.Name, limit+1)
	if err != nil {
		return page, err
	}
	for _, r := range rows {
		if len(page.Items) == limit {
			page.Next = cursor.Encode(cursor.Webhooks(q), uint64(r.no))
			break
		}
		page.Items = append(page.Items, r.hook)
	}
	return page, nil
}
