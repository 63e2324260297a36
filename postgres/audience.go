package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/postrider/postrider"
)

// maxProjects is how many projects an audience knows at most before it forgets all.
const maxProjects = 10_000

// audience is what this process knows of who gets which events. It may be out of date: the statement that stores events
// compares the versions, in its own snapshot.
type audience struct {
	mu       sync.Mutex
	projects map[string]*project // guarded by mu; each is never changed
}

// project is the webhooks of a project that are not deleted, in the order of their creation.
type project struct {
	version int64
	hooks   []target
	ordered bool // one of them is
}

// target is a webhook that events can go to. Of the webhook just patterns and Ordered are looked at.
type target struct {
	no   int64
	hook postrider.Webhook
}

// audienceSQL returns version and webhooks in one snapshot.
const audienceSQL = `
SELECT p.version, h.no, h.body
FROM (SELECT coalesce((SELECT version FROM ~.project WHERE project = $1), 0) AS version) p
LEFT JOIN ~.hook h ON h.project = $1 AND NOT h.deleted
ORDER BY h.no`

// project returns what is known of a project, or reads it.
func (s *Store) project(ctx context.Context, q enquirer, name string) (*project, error) {
	s.hooks.mu.Lock()
	p := s.hooks.projects[name]
	s.hooks.mu.Unlock()
	if p != nil {
		return p, nil
	}
	return s.load(ctx, q, name)
}

// load reads a project's webhooks as q sees them.
func (s *Store) load(ctx context.Context, q enquirer, name string) (*project, error) {
	p := &project{}
	err := q.each(ctx, s.sql(audienceSQL), func(scan func(...any) error) error {
		var no *int64
		var body []byte
		if err := scan(&p.version, &no, &body); err != nil || no == nil {
			return err
		}
		t := target{no: *no}
		if err := t.hook.UnmarshalBinary(body); err != nil {
			return err
		}
		p.hooks, p.ordered = append(p.hooks, t), p.ordered || t.hook.Ordered
		return nil
	}, name)
	if err != nil {
		return nil, err
	}
	a := &s.hooks
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.projects) >= maxProjects || a.projects == nil {
		a.projects = map[string]*project{}
	}
	// A transaction of the caller's may see an older state than others do.
	if old := a.projects[name]; old == nil || old.version < p.version {
		a.projects[name] = p
	}
	return p, nil
}

// targets returns the webhooks that an item goes to, in the order of their creation.
func (p *project) targets(it *postrider.Item, eventType string) (list []*target, err error) {
	if it.To == nil {
		for i := range p.hooks {
			if p.hooks[i].hook.Matches(eventType) {
				list = append(list, &p.hooks[i])
			}
		}
		return list, nil
	}
	for _, id := range it.To {
		i := slices.IndexFunc(p.hooks, func(t target) bool { return t.hook.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("webhook %q: %w", id, postrider.ErrNotFound)
		}
		list = append(list, &p.hooks[i])
	}
	slices.SortFunc(list, func(a, b *target) int { return int(a.no - b.no) })
	return list, nil
}

// enquirer runs statements in a transaction, whosever it is.
type enquirer interface {
	each(ctx context.Context, sql string, row func(scan func(...any) error) error, args ...any) error
}

// direct is an enquirer on pgx.
type direct struct{ q querier }

func (d direct) each(ctx context.Context, sql string, row func(scan func(...any) error) error, args ...any) error {
	rows, err := d.q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	return eachRow(rows, row)
}

func eachRow(rows pgx.Rows, row func(scan func(...any) error) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
