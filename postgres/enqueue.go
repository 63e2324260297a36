package postgres

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

// storeSQL stores events and deliveries, or nothing if what the caller knows of a project is out of date. It returns a
// row for each of: a project that is ("stale"), an event that is new ("event"), a replay that its Run may make ("run"),
// and an event that goes nowhere but is stored ("known").
//
// Events are inserted in the order of their keys, and lanes in theirs, so that two calls do not wait for each other in
// a circle. The lane's row is locked until the end of the transaction: those who enter it come one after another, in the
// order of their commits, and each gets its turn from the row as it is then, not as the snapshot has it. The time of
// creation is taken after that, so that it ascends along a lane.
//
// plainSQL is the same for events without lanes and replays, in half the time: each part of a statement costs the server
// something before it sees the first row.
const (
	storeSQL = newSQL + `
d AS MATERIALIZED (
	SELECT * FROM unnest($8::uuid[], $9::uuid[], $10::bigint[], $11::bool[], $12::text[], $13::text[], $14::text[],
		$15::uuid[], $16::uuid[], $17::text[], $18::bool[])
	AS d(id, event, hook, test, project, event_id, type, lane, replay_of, run, again)
	WHERE NOT EXISTS (SELECT FROM stale)),
run AS (
	INSERT INTO ~.replayed (event, hook, run)
	SELECT event, hook, run FROM d WHERE run <> '' ORDER BY 1, 2, 3
	ON CONFLICT DO NOTHING RETURNING event, hook, run),
made AS MATERIALIZED (
	SELECT d.* FROM d JOIN fresh ON fresh.uid = d.event WHERE NOT d.again
	UNION ALL SELECT d.* FROM d WHERE d.again AND d.run = ''
	UNION ALL SELECT d.* FROM d JOIN run USING (event, hook, run)),
entered AS (
	INSERT INTO ~.lane AS l (hook, lane, tail, head)
	SELECT hook, lane, count(*), 1 FROM made WHERE lane IS NOT NULL GROUP BY hook, lane ORDER BY hook, lane
	ON CONFLICT (hook, lane) DO UPDATE SET tail = l.tail + EXCLUDED.tail
	RETURNING hook, lane, tail, head),
placed AS (
	SELECT m.id, l.head, l.tail - count(*) OVER (PARTITION BY m.hook, m.lane)
		+ row_number() OVER (PARTITION BY m.hook, m.lane ORDER BY m.id) AS turn
	FROM made m JOIN entered l ON l.hook = m.hook AND l.lane = m.lane),
t AS MATERIALIZED (SELECT clock_timestamp() AS now FROM (SELECT count(*) FROM entered) e),
ready AS (
	INSERT INTO ~.open (id, event, hook, due, created, turn, lane, parked, test, replay_of, project, event_id, type)
	SELECT m.id, m.event, m.hook, t.now, t.now, p.turn, m.lane, coalesce(p.turn <> p.head, false),
		m.test, m.replay_of, m.project, m.event_id, m.type
	FROM made m CROSS JOIN t LEFT JOIN placed p USING (id) ORDER BY m.id
	RETURNING hook, parked),
` + storedSQL + `
UNION ALL SELECT 'run', event::text || run, hook FROM run`

	plainSQL = newSQL + `
ready AS (
	INSERT INTO ~.open (id, event, hook, due, created, parked, test, project, event_id, type)
	SELECT d.id, d.event, d.hook, t.now, t.now, false, d.test, d.project, d.event_id, d.type
	FROM unnest($8::uuid[], $9::uuid[], $10::bigint[], $11::bool[], $12::text[], $13::text[], $14::text[])
		AS d(id, event, hook, test, project, event_id, type)
	JOIN fresh ON fresh.uid = d.event CROSS JOIN (SELECT clock_timestamp() AS now OFFSET 0) t ORDER BY d.id
	RETURNING hook, parked),
` + storedSQL

	newSQL = `
WITH stale AS MATERIALIZED (
	SELECT v.project FROM unnest($1::text[], $2::bigint[]) v(project, version)
	WHERE v.version <> coalesce((SELECT p.version FROM ~.project p WHERE p.project = v.project), 0)),
fresh AS (
	INSERT INTO ~.event_key (id, project, uid)
	SELECT e.id, e.project, e.uid FROM unnest($3::uuid[], $4::text[], $5::text[]) e(uid, id, project)
	WHERE NOT EXISTS (SELECT FROM stale) ORDER BY e.id, e.project
	ON CONFLICT DO NOTHING RETURNING uid),
stored AS (
	INSERT INTO ~.event (uid, type, body)
	SELECT e.uid, e.type, e.body FROM unnest($3::uuid[], $6::text[], $7::bytea[]) e(uid, type, body) JOIN fresh USING (uid)),`

	storedSQL = `
counted AS (
	INSERT INTO ~.tally (hook, at, fresh, parked)
	SELECT hook, statement_timestamp(), count(*), count(*) FILTER (WHERE parked) FROM ready GROUP BY hook)
SELECT 'stale', project, 0::bigint FROM stale
UNION ALL SELECT 'event', uid::text, 0 FROM fresh`

	// knownSQL returns which of some events are stored.
	knownSQL = `
SELECT 'known', n.project || ' ' || n.id, 0::bigint FROM unnest($1::text[], $2::text[]) n(id, project)
WHERE EXISTS (SELECT FROM ~.event_key k WHERE k.id = n.id AND k.project = n.project)`
)

// replaySQL returns the events that are to be sent again, and keeps them from being pruned until then.
const replaySQL = `
SELECT k.project, k.id, k.uid::text, e.type
FROM unnest($1::text[], $2::text[]) n(id, project)
JOIN ~.event_key k ON k.id = n.id AND k.project = n.project JOIN ~.event e ON e.uid = k.uid
ORDER BY k.id, k.project FOR KEY SHARE OF k`

// errStale: the webhooks of a project changed since they were read.
var errStale = errors.New("webhooks changed while events were stored")

// Enqueue stores events and makes their deliveries.
func (s *Store) Enqueue(ctx context.Context, items []postrider.Item) (receipts []postrider.Receipt, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if s.shares(items) {
		receipts, err = s.emits.submit(ctx, items, s.commit)
	} else {
		receipts, err = s.commit(ctx, items, 0)
	}
	if err != nil {
		return nil, err
	}
	s.wake(ctx)
	return receipts, nil
}

// shares reports whether a call may share a transaction with others: see group.
func (s *Store) shares(items []postrider.Item) bool {
	if len(items) > maxOwn {
		return false
	}
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	for i := range items {
		it := &items[i]
		p := s.hooks.projects[it.Event.Project]
		if p != nil && p.ordered || it.Event.OrderKey != "" || it.ReplayOf != "" {
			return false
		}
	}
	return true
}

// commit stores the items in a transaction of the store's own. It waits for locks for no longer than patience, if that
// is not 0.
func (s *Store) commit(ctx context.Context, items []postrider.Item, patience time.Duration) (receipts []postrider.Receipt, err error) {
	err = s.open(ctx, patience, func(ctx context.Context, o *opening) (err error) {
		receipts, err = s.enqueue(ctx, o, items)
		return err
	})
	return receipts, err
}

// enqueue stores the items in the transaction of q.
func (s *Store) enqueue(ctx context.Context, q enquirer, items []postrider.Item) ([]postrider.Receipt, error) {
	origins, err := s.origins(ctx, q, items)
	if err != nil {
		return nil, err
	}
	projects := map[string]*project{}
	for i := range items {
		name := items[i].Event.Project
		if projects[name] == nil {
			if projects[name], err = s.project(ctx, q, name); err != nil {
				return nil, err
			}
		}
	}
	for range tries {
		b, err := newBatch(items, projects, origins)
		if err != nil {
			// A webhook that is not known may have been made since.
			if changed, err := s.reload(ctx, q, projects, slices.Collect(maps.Keys(projects))); err != nil || changed {
				if err != nil {
					return nil, err
				}
				continue
			}
			return nil, err
		}
		stale, err := s.store(ctx, q, b)
		if err != nil {
			return nil, err
		}
		if len(stale) == 0 {
			return b.receipts(), nil
		}
		if _, err := s.reload(ctx, q, projects, stale); err != nil {
			return nil, err
		}
	}
	return nil, errStale
}

// reload reads projects again and reports whether any has changed.
func (s *Store) reload(ctx context.Context, q enquirer, projects map[string]*project, names []string) (changed bool, err error) {
	for _, name := range names {
		p, err := s.load(ctx, q, name)
		if err != nil {
			return false, err
		}
		changed = changed || p.version != projects[name].version
		projects[name] = p
	}
	return changed, nil
}

// origins returns the events that items send again, by their keys.
func (s *Store) origins(ctx context.Context, q enquirer, items []postrider.Item) (map[string]origin, error) {
	var ids, projects []string
	for i := range items {
		if e := &items[i].Event; items[i].ReplayOf != "" && storable(e.ID, e.Project) {
			ids, projects = append(ids, e.ID), append(projects, e.Project)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	found := map[string]origin{}
	err := q.each(ctx, s.sql(replaySQL), func(scan func(...any) error) error {
		var project, id, text, kind string
		if err := scan(&project, &id, &text, &kind); err != nil {
			return err
		}
		event, _ := parseUID(text)
		found[keyOf(project, id)] = origin{event, kind}
		return nil
	}, ids, projects)
	return found, err
}

// store runs storeSQL on the batch. It returns the projects that are out of date, if there are any: then nothing is
// stored.
func (s *Store) store(ctx context.Context, q enquirer, b *batch) (stale []string, err error) {
	var names []string
	var versions []int64
	for _, name := range slices.Sorted(maps.Keys(b.projects)) {
		names, versions = append(names, name), append(versions, b.projects[name].version)
	}
	e, d, n := &b.events, &b.deliveries, &b.nowhere
	note := func(scan func(...any) error) error {
		var kind, text string
		var hook int64
		if err := scan(&kind, &text, &hook); err != nil {
			return err
		}
		switch kind {
		case "stale":
			stale = append(stale, text)
		case "event":
			b.fresh[text] = true
		case "run":
			b.ran[runKey(text, hook)] = true
		case "known":
			b.known[text] = true
		}
		return nil
	}
	text, args := plainSQL, []any{names, versions, e.uid, e.id, e.project, e.kind, e.body,
		d.id, d.event, d.hook, d.test, d.project, d.eventID, d.kind}
	if !b.plain {
		text, args = storeSQL, append(args, d.lane, d.replayOf, d.run, d.again)
	}
	if err := q.each(ctx, s.sql(text), note, args...); err != nil || len(stale) > 0 || len(n.id) == 0 {
		return stale, err
	}
	return nil, q.each(ctx, s.sql(knownSQL), note, n.id, n.project)
}
