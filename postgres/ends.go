package postgres

// endsSQL is the rest of every statement that moves deliveries on. Before it, o has selected rows of open, locked, with
// what becomes of each:
//
//	next      the status after it; NULL: as it was
//	due2      when it is due, if next is 1
//	attempts2, code2, class2, error2, took2   after it
//	ok, bad   whether an attempt went well or not
//
// A delivery that ends moves to delivery. If it was in a lane, the lane is to be looked at: see lane.go.
const endsSQL = `
gone AS (DELETE FROM ~.open x USING o WHERE x.id = o.id AND o.next > 1),
done AS (
	INSERT INTO ~.delivery (id, event, hook, created, finished, last_took, attempts, last_code, last_class, status, test, replay_of,
		project, event_id, type, last_error)
	SELECT id, event, hook, created, statement_timestamp(), took2, attempts2, code2, class2, next, test, replay_of,
		project, event_id, type, error2
	FROM o WHERE next > 1 ORDER BY id),
kept AS (
	UPDATE ~.open x SET status = o.next, due = o.due2, attempts = o.attempts2, last_code = o.code2, last_class = o.class2,
		last_error = o.error2, last_took = o.took2
	FROM o WHERE x.id = o.id AND o.next <= 1),
look AS (INSERT INTO ~.lane_look (hook, lane) SELECT DISTINCT hook, lane FROM o WHERE next > 1 AND lane IS NOT NULL RETURNING no),
counted AS (
	INSERT INTO ~.tally (hook, at, fresh, going, delivered, canceled, failed, parked, ok, bad)
	SELECT hook, statement_timestamp(), sum((next = 0)::int - (status = 0)::int), sum((next = 1)::int - (status = 1)::int),
		sum((next = 2)::int), sum((next = 3)::int), sum((next = 4)::int), -sum((parked AND next > 1)::int), sum(ok::int), sum(bad::int)
	FROM o WHERE next IS NOT NULL GROUP BY hook),
retried AS (
	INSERT INTO ~.tally (hook, at, due, retries)
	SELECT hook, statement_timestamp(), date_trunc('minute', due), sum(n)
	FROM (SELECT hook, due, -1 AS n FROM o WHERE status = 1 AND next IS NOT NULL
		UNION ALL SELECT hook, due2, 1 FROM o WHERE next = 1) m
	GROUP BY 1, 3 HAVING sum(n) <> 0)
`
