-- Every name is qualified: ~ stands for the schema.

-- The version goes up whenever who gets which events of a project may have changed; an Enqueue trusts what it knows of
-- the project's webhooks only while the version is the one that it knows.
CREATE TABLE ~.project (
	project text COLLATE "C" PRIMARY KEY,
	version bigint NOT NULL
);

-- body is the webhook as the codec writes it; the columns repeat what statements look at.
CREATE TABLE ~.hook (
	no            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	id            text COLLATE "C" NOT NULL CONSTRAINT hook_id UNIQUE,
	project       text COLLATE "C" NOT NULL,
	name          text COLLATE "C" NOT NULL,
	owner         text COLLATE "C" NOT NULL,
	deleted       boolean NOT NULL DEFAULT false,
	state         smallint NOT NULL,
	not_before    timestamptz NOT NULL,
	max_in_flight integer NOT NULL,
	hold_window   integer NOT NULL,
	revision      bigint NOT NULL DEFAULT 0, -- goes up with every write of body, and is another one after a failover that lost some
	body          bytea NOT NULL
);
CREATE UNIQUE INDEX hook_name ON ~.hook (project, name) WHERE NOT deleted;
CREATE INDEX hook_owner ON ~.hook (owner);

-- Who counts what is held of a webhook, to claim more, and who changes deliveries for what they are not claimed, locks its
-- row here. Nothing is ever written to it.
CREATE TABLE ~.hold (
	hook bigint PRIMARY KEY
);

-- Events and what has ended are partitioned by their UUIDv7, so by time: a lookup prunes to one partition, a page needs
-- no sort, and old partitions can be dropped whole.
CREATE TABLE ~.event (
	uid  uuid PRIMARY KEY,
	type text COLLATE "C" NOT NULL,
	body bytea NOT NULL -- as the codec writes it, payload included
) PARTITION BY RANGE (uid);
CREATE TABLE ~.event_default PARTITION OF ~.event DEFAULT;
ALTER TABLE ~.event ALTER COLUMN body SET STORAGE EXTERNAL;

-- What is unique cannot live in partitions.
CREATE TABLE ~.event_key (
	id      text COLLATE "C" NOT NULL,
	project text COLLATE "C" NOT NULL,
	uid     uuid NOT NULL,
	PRIMARY KEY (id, project)
);
CREATE INDEX event_key_uid ON ~.event_key (uid); -- for the keys of a partition

CREATE TABLE ~.replayed (
	event uuid NOT NULL,
	hook  bigint NOT NULL,
	run   text COLLATE "C" NOT NULL,
	PRIMARY KEY (event, hook, run)
);

-- Open deliveries: one row each, written once at the emit and once for every retry, deleted when it ends.
CREATE TABLE ~.open (
	id         uuid PRIMARY KEY,
	event      uuid NOT NULL,
	hook       bigint NOT NULL,
	due        timestamptz NOT NULL,
	created    timestamptz NOT NULL,
	turn       bigint,             -- its place in the lane
	lane       uuid,               -- NULL: none
	last_took  bigint NOT NULL DEFAULT 0, -- microseconds
	attempts   integer NOT NULL DEFAULT 0,
	last_code  smallint NOT NULL DEFAULT 0,
	last_class smallint NOT NULL DEFAULT 0,
	status     smallint NOT NULL DEFAULT 0,
	parked     boolean NOT NULL,   -- others of its lane come first
	canceled   boolean NOT NULL DEFAULT false, -- while it was claimed
	test       boolean NOT NULL,
	replay_of  uuid,
	project    text COLLATE "C" NOT NULL,
	event_id   text COLLATE "C" NOT NULL,
	type       text COLLATE "C" NOT NULL,
	last_error bytea NOT NULL DEFAULT ''
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
	autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX open_ready ON ~.open (hook, due, id) WHERE NOT parked;
CREATE INDEX open_list ON ~.open (hook, id);
CREATE INDEX open_project ON ~.open (project, id);
CREATE INDEX open_event ON ~.open (event);
CREATE INDEX open_lane ON ~.open (hook, lane, turn) WHERE lane IS NOT NULL;
CREATE INDEX open_replay ON ~.open (replay_of) WHERE replay_of IS NOT NULL;

-- Claims. One whose time is over counts for nothing; a Claim deletes it, and then the delivery can be claimed again.
CREATE TABLE ~.lease (
	hook  bigint NOT NULL,
	id    uuid NOT NULL,
	token uuid NOT NULL,
	until timestamptz NOT NULL,
	PRIMARY KEY (hook, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- A row while the lane has open deliveries. Its lock orders those who enter it and those who let the next one go.
CREATE TABLE ~.lane (
	hook bigint NOT NULL,
	lane uuid NOT NULL,
	tail bigint NOT NULL, -- the last turn that was given
	head bigint NOT NULL, -- the turn that is not parked
	PRIMARY KEY (hook, lane)
) WITH (fillfactor = 70);

-- Lanes of which a delivery has ended, so that it may be the turn of the next.
CREATE TABLE ~.lane_look (
	no   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	hook bigint NOT NULL,
	lane uuid NOT NULL
);

CREATE TABLE ~.delivery (
	id         uuid PRIMARY KEY,
	event      uuid NOT NULL,
	hook       bigint NOT NULL,
	created    timestamptz NOT NULL,
	finished   timestamptz NOT NULL,
	last_took  bigint NOT NULL,
	attempts   integer NOT NULL,
	last_code  smallint NOT NULL,
	last_class smallint NOT NULL,
	status     smallint NOT NULL,
	test       boolean NOT NULL,
	replay_of  uuid,
	project    text COLLATE "C" NOT NULL,
	event_id   text COLLATE "C" NOT NULL,
	type       text COLLATE "C" NOT NULL,
	last_error bytea NOT NULL,
	tried      bytea -- the attempt, as the codec writes it, of what was delivered at the first; attempt has no row of it then
) PARTITION BY RANGE (id);
CREATE INDEX delivery_list ON ~.delivery (hook, id);
CREATE INDEX delivery_project ON ~.delivery (project, id);
CREATE INDEX delivery_event ON ~.delivery (event);
CREATE INDEX delivery_finished ON ~.delivery (finished);
CREATE INDEX delivery_replay ON ~.delivery (replay_of) WHERE replay_of IS NOT NULL;
CREATE TABLE ~.delivery_default PARTITION OF ~.delivery DEFAULT;

CREATE TABLE ~.attempt (
	delivery uuid NOT NULL,
	number   integer NOT NULL,
	body     bytea NOT NULL, -- as the codec writes it
	PRIMARY KEY (delivery, number)
) PARTITION BY RANGE (delivery);
CREATE TABLE ~.attempt_default PARTITION OF ~.attempt DEFAULT;

-- What was counted, a row for every webhook that a transaction bears on: nobody waits for anybody. A roll-up carries
-- the rows to the tables below.
CREATE TABLE ~.tally (
	hook      bigint NOT NULL,
	at        timestamptz NOT NULL,
	due       timestamptz, -- the minute that retries are of
	retries   integer NOT NULL DEFAULT 0,
	fresh     integer NOT NULL DEFAULT 0,
	going     integer NOT NULL DEFAULT 0,
	delivered integer NOT NULL DEFAULT 0,
	canceled  integer NOT NULL DEFAULT 0,
	failed    integer NOT NULL DEFAULT 0,
	parked    integer NOT NULL DEFAULT 0,
	pruned    integer NOT NULL DEFAULT 0,
	ok        integer NOT NULL DEFAULT 0,
	bad       integer NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- What nearly all deliveries come to, in one row for all of a transaction: those of these webhooks, one for each, were
-- delivered at their first attempt.
CREATE TABLE ~.tally_first (
	at    timestamptz NOT NULL,
	hooks bigint[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE ~.stat (
	hook      bigint PRIMARY KEY,
	fresh     bigint NOT NULL,
	going     bigint NOT NULL,
	delivered bigint NOT NULL,
	canceled  bigint NOT NULL,
	failed    bigint NOT NULL,
	parked    bigint NOT NULL,
	pruned    bigint NOT NULL,
	ok        bigint NOT NULL,
	bad       bigint NOT NULL
) WITH (fillfactor = 70);

-- Deliveries that wait for a retry, by the minute of it.
CREATE TABLE ~.retry (
	hook bigint NOT NULL,
	due  timestamptz NOT NULL,
	n    bigint NOT NULL,
	PRIMARY KEY (hook, due)
);

-- Attempts, by the minute for some hours, by the hour for 31 days.
CREATE TABLE ~.rate (
	hook bigint NOT NULL,
	at   timestamptz NOT NULL,
	hour boolean NOT NULL,
	ok   bigint NOT NULL,
	bad  bigint NOT NULL,
	PRIMARY KEY (hook, hour, at)
);

-- What is to be done now and then, by whoever gets the lock of its row.
CREATE TABLE ~.chore (
	name text PRIMARY KEY,
	at   timestamptz NOT NULL
);
INSERT INTO ~.chore VALUES ('rollup', '-infinity'), ('partitions', '-infinity'), ('retire', '-infinity');

-- Partitions: those of event, delivery and attempt have the same bounds. What no partition takes lies in the default ones.
-- They are made and dropped by functions, with the rights of the schema's owner, so that a program needs none of its own.

CREATE VIEW ~.part AS
SELECT p.relname::text AS parent, c.relname::text AS name, m[1]::uuid AS lower, m[2]::uuid AS upper,
	to_timestamp(('x' || left(translate(m[1], '-', ''), 12))::bit(48)::bigint / 1000.0) AS starts,
	to_timestamp(('x' || left(translate(m[2], '-', ''), 12))::bit(48)::bigint / 1000.0) AS ends
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([0-9a-f-]{36})''\) TO \(''([0-9a-f-]{36})''\)') m
WHERE i.inhparent IN ('~.event'::regclass, '~.delivery'::regclass, '~.attempt'::regclass) AND m IS NOT NULL;

-- edge returns the least UUIDv7 of a moment.
CREATE FUNCTION ~.edge(t timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
	SELECT (lpad(to_hex((greatest(extract(epoch FROM t), 0) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- seize locks tables against everybody, in moments. It never has others wait long behind it: it lets go and tries again.
CREATE FUNCTION ~.seize(tables regclass[]) RETURNS void LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	t regclass;
BEGIN
	FOR n IN 1..5 LOOP
		BEGIN
			FOREACH t IN ARRAY tables LOOP
				EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', t);
			END LOOP;
			RETURN;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			IF n = 5 THEN
				RAISE;
			END IF;
		END;
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;

-- put_part makes a partition of each of the three.
CREATE FUNCTION ~.put_part(starts timestamptz, ends timestamptz) RETURNS void LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	tail text := '_' || to_char(starts AT TIME ZONE 'UTC', 'YYYYMMDD_HH24');
	parent text;
	parents text[] := ARRAY['event', 'delivery', 'attempt'];
BEGIN
	FOREACH parent IN ARRAY parents LOOP
		EXECUTE format('CREATE TABLE ~.%I (LIKE ~.%I INCLUDING ALL)', parent || tail, parent);
	END LOOP;
	-- From here on writers of the default partitions wait: each is read once.
	PERFORM ~.seize(ARRAY['~.event_default', '~.delivery_default', '~.attempt_default']::regclass[]);
	FOREACH parent IN ARRAY parents LOOP
		EXECUTE format('ALTER TABLE ~.%I ATTACH PARTITION ~.%I FOR VALUES FROM (%L) TO (%L)',
			parent, parent || tail, ~.edge(starts), ~.edge(ends));
	END LOOP;
END $$;

-- add_partition makes the next partitions, of width seconds, that are missing from now to ahead times that later. It
-- returns whether it made any. A time of which the default partitions hold something it leaves to them.
CREATE FUNCTION ~.add_partition(width int, ahead int) RETURNS boolean LANGUAGE plpgsql
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	a timestamptz;
	b timestamptz;
	t regclass;
BEGIN
	IF width NOT BETWEEN 3600 AND 31 * 86400 OR width % 3600 <> 0 OR ahead NOT BETWEEN 0 AND 100 THEN
		RAISE 'add_partition(%, %): want hours, up to 31 days, and 0 to 100 ahead', width, ahead;
	END IF;
	b := to_timestamp(floor(extract(epoch FROM now()) / width) * width);
	LOOP
		a := b;
		IF a > now() + ahead * width * interval '1 second' THEN
			RETURN false;
		END IF;
		b := (SELECT max(ends) FROM ~.part WHERE starts <= a AND ends > a);
		CONTINUE WHEN b IS NOT NULL;
		b := least(to_timestamp((floor(extract(epoch FROM a) / width) + 1) * width),
			(SELECT min(starts) FROM ~.part WHERE starts > a));
		EXIT WHEN b > now()
			AND NOT EXISTS (SELECT FROM ~.event_default WHERE uid >= ~.edge(a) AND uid < ~.edge(b))
			AND NOT EXISTS (SELECT FROM ~.delivery_default WHERE id >= ~.edge(a) AND id < ~.edge(b))
			AND NOT EXISTS (SELECT FROM ~.attempt_default WHERE delivery >= ~.edge(a) AND delivery < ~.edge(b));
	END LOOP;
	FOREACH t IN ARRAY ARRAY['~.event_default', '~.delivery_default', '~.attempt_default']::regclass[] LOOP
		IF pg_relation_size(t) > 268435456 THEN
			RAISE program_limit_exceeded USING MESSAGE = format('%s is larger than 256 MB: to read it would keep writers waiting', t);
		END IF;
	END LOOP;
	PERFORM ~.put_part(a, b);
	RETURN true;
END $$;

-- retire_history drops the partitions of deliveries and attempts of a time. What has not ended, or after cut, is carried
-- over to a partition in its place. It returns how many deliveries are gone, NULL if they are better deleted one by one.
CREATE FUNCTION ~.retire_history(part text, l uuid, u uuid, cut timestamptz) RETURNS bigint LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	most CONSTANT int := 20000; -- that are carried over
	attempts text := (SELECT name FROM ~.part WHERE parent = 'attempt' AND lower = l AND upper = u);
	late uuid[] := ARRAY(SELECT id FROM ~.delivery WHERE id >= l AND id < u AND finished > cut ORDER BY id LIMIT most + 1);
	waiting uuid[] := ARRAY(SELECT id FROM ~.open WHERE id >= l AND id < u ORDER BY id LIMIT most + 1);
	kept uuid[] := late || waiting;
	few int := 10 * cardinality(kept);
	gone bigint;
	tried bigint := 0;
BEGIN
	IF attempts IS NULL OR cardinality(kept) > most OR few > 0 AND few >= (
		SELECT count(*) FROM (SELECT FROM ~.delivery WHERE id >= l AND id < u AND finished <= cut LIMIT few + 1) d) THEN
		RETURN NULL;
	END IF;
	WITH d AS MATERIALIZED (
		SELECT hook, status, count(*) AS n FROM ~.delivery WHERE id >= l AND id < u AND finished <= cut GROUP BY hook, status),
	t AS (
		INSERT INTO ~.tally (hook, at, delivered, canceled, failed, pruned)
		SELECT hook, statement_timestamp(), coalesce(-sum(n) FILTER (WHERE status = 2), 0), coalesce(-sum(n) FILTER (WHERE status = 3), 0),
			coalesce(-sum(n) FILTER (WHERE status = 4), 0), sum(n)
		FROM d GROUP BY hook)
	SELECT coalesce(sum(n), 0) INTO gone FROM d;
	IF few > 0 THEN
		CREATE TABLE ~.thin_delivery (LIKE ~.delivery INCLUDING ALL);
		CREATE TABLE ~.thin_attempt (LIKE ~.attempt INCLUDING ALL);
		EXECUTE 'INSERT INTO ~.thin_delivery SELECT * FROM ~.delivery WHERE id >= $1 AND id < $2 AND id = ANY ($3)' USING l, u, late;
		EXECUTE 'INSERT INTO ~.thin_attempt SELECT * FROM ~.attempt WHERE delivery >= $1 AND delivery < $2 AND delivery = ANY ($3)'
			USING l, u, kept;
		GET DIAGNOSTICS tried = ROW_COUNT;
	END IF;
	PERFORM ~.seize(ARRAY['~.attempt', '~.delivery', format('~.%I', attempts), format('~.%I', part), '~.attempt_default',
		'~.delivery_default']::regclass[]);
	-- Who ended a delivery of this time meanwhile is seen now.
	IF late <> ARRAY(SELECT id FROM ~.delivery WHERE id >= l AND id < u AND finished > cut ORDER BY id)
		OR waiting <> ARRAY(SELECT id FROM ~.open WHERE id >= l AND id < u ORDER BY id)
		OR few > 0 AND tried <> (SELECT count(*) FROM ~.attempt WHERE delivery >= l AND delivery < u AND delivery = ANY (kept)) THEN
		RAISE lock_not_available USING MESSAGE = 'deliveries of ' || part || ' ended just now';
	END IF;
	EXECUTE format('DROP TABLE ~.%I, ~.%I', part, attempts);
	IF few > 0 THEN
		EXECUTE format('ALTER TABLE ~.thin_delivery RENAME TO %I', part);
		EXECUTE format('ALTER TABLE ~.thin_attempt RENAME TO %I', attempts);
		EXECUTE format('ALTER TABLE ~.delivery ATTACH PARTITION ~.%I FOR VALUES FROM (%L) TO (%L)', part, l, u);
		EXECUTE format('ALTER TABLE ~.attempt ATTACH PARTITION ~.%I FOR VALUES FROM (%L) TO (%L)', attempts, l, u);
	END IF;
	RETURN gone;
END $$;

-- retire_events does a step towards dropping a partition of events: first their keys go, in batches, so that no key answers
-- with an event that is gone; then the partition, or all of it that has no key. What a delivery is of keeps its key, and
-- stays. It returns whether there was anything to do.
CREATE FUNCTION ~.retire_events(part text, l uuid, u uuid) RETURNS boolean LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	most CONSTANT int := 20000; -- that are carried over
	used uuid[] := ARRAY(
		SELECT event FROM ~.open WHERE event >= l AND event < u
		UNION SELECT event FROM ~.delivery WHERE event >= l AND event < u LIMIT most + 1);
	kept uuid[];
	free uuid[];
	few int;
	n bigint;
BEGIN
	IF cardinality(used) > most THEN
		RETURN false;
	END IF;
	-- Keys are locked first, as a replay does: what it made before is seen by the next statement.
	SELECT array_agg(uid) INTO free FROM (
		SELECT k.uid FROM ~.event_key k
		WHERE k.uid >= l AND k.uid < u AND NOT EXISTS (SELECT FROM unnest(used) x(uid) WHERE x.uid = k.uid)
		LIMIT 10000 FOR UPDATE OF k SKIP LOCKED) k;
	WITH k AS (
		DELETE FROM ~.event_key k WHERE k.uid = ANY (free) AND k.uid NOT IN (
			SELECT event FROM ~.open WHERE event >= l AND event < u
			UNION SELECT event FROM ~.delivery WHERE event >= l AND event < u)
		RETURNING k.uid),
	r AS (DELETE FROM ~.replayed r USING k WHERE r.event = k.uid)
	SELECT count(*) INTO n FROM k;
	IF n > 0 THEN
		RETURN true;
	END IF;
	kept := ARRAY(SELECT uid FROM ~.event_key WHERE uid >= l AND uid < u ORDER BY uid LIMIT most + 1);
	few := 10 * cardinality(kept);
	IF few > 0 THEN
		SELECT count(*) INTO n FROM (
			SELECT FROM ~.event e WHERE uid >= l AND uid < u AND NOT EXISTS (SELECT FROM ~.event_key k WHERE k.uid = e.uid) LIMIT few + 1) e;
		IF n = 0 OR cardinality(kept) > most THEN
			RETURN false;
		ELSIF n <= few THEN
			DELETE FROM ~.event WHERE uid = ANY (ARRAY(
				SELECT e.uid FROM ~.event e
				WHERE uid >= l AND uid < u AND NOT EXISTS (SELECT FROM ~.event_key k WHERE k.uid = e.uid) LIMIT 1000));
			RETURN true;
		END IF;
		CREATE TABLE ~.thin_event (LIKE ~.event INCLUDING ALL);
		EXECUTE 'INSERT INTO ~.thin_event SELECT * FROM ~.event WHERE uid >= $1 AND uid < $2 AND uid = ANY ($3)' USING l, u, kept;
	END IF;
	PERFORM ~.seize(ARRAY['~.event', format('~.%I', part), '~.event_default']::regclass[]);
	IF kept <> ARRAY(SELECT uid FROM ~.event_key WHERE uid >= l AND uid < u ORDER BY uid) THEN
		RAISE lock_not_available USING MESSAGE = 'events of ' || part || ' changed just now';
	END IF;
	EXECUTE format('DROP TABLE ~.%I', part);
	IF few > 0 THEN
		EXECUTE format('ALTER TABLE ~.thin_event RENAME TO %I', part);
		EXECUTE format('ALTER TABLE ~.event ATTACH PARTITION ~.%I FOR VALUES FROM (%L) TO (%L)', part, l, u);
	END IF;
	RETURN true;
END $$;

-- retire_strays does a step towards deleting the events of the default partition of which the last delivery went with a
-- partition: one that is made of an event later, to send it again, may have one. It returns whether there was any.
CREATE FUNCTION ~.retire_strays(cut timestamptz) RETURNS boolean LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	free uuid[];
	n bigint;
BEGIN
	SELECT array_agg(uid) INTO free FROM ( -- locked first, as above
		SELECT k.uid FROM (SELECT uid FROM ~.event_default WHERE uid < ~.edge(cut) ORDER BY uid LIMIT 100000) e
		JOIN ~.event_key k USING (uid)
		WHERE NOT EXISTS (SELECT FROM ~.open o WHERE o.event = e.uid)
			AND NOT EXISTS (SELECT FROM ~.delivery d WHERE d.event = e.uid)
		LIMIT 1000 FOR UPDATE OF k SKIP LOCKED) k;
	WITH k AS (
		DELETE FROM ~.event_key k WHERE k.uid = ANY (free) AND NOT EXISTS (SELECT FROM ~.open o WHERE o.event = k.uid)
			AND NOT EXISTS (SELECT FROM ~.delivery d WHERE d.event = k.uid)
		RETURNING k.uid),
	r AS (DELETE FROM ~.replayed r USING k WHERE r.event = k.uid),
	e AS (DELETE FROM ~.event_default e USING k WHERE e.uid = k.uid)
	SELECT count(*) INTO n FROM k;
	RETURN n > 0;
END $$;

-- retire does a step towards dropping what ended at least age microseconds ago, of the partitions of which all is as old.
-- It returns how many deliveries are gone, and whether it did anything. One may do so at a time: who has the chore's lock.
CREATE FUNCTION ~.retire(age bigint, OUT gone bigint, OUT did boolean) LANGUAGE plpgsql
	SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	cut timestamptz := statement_timestamp() - age * interval '1 microsecond';
	p record;
BEGIN
	did := true;
	FOR p IN SELECT * FROM ~.part WHERE parent = 'delivery' AND ends <= cut ORDER BY lower LOOP
		gone := ~.retire_history(p.name, p.lower, p.upper, cut);
		IF gone IS NOT NULL THEN
			RETURN;
		END IF;
	END LOOP;
	gone := 0;
	FOR p IN SELECT * FROM ~.part WHERE parent = 'event' AND ends <= cut ORDER BY lower LOOP
		IF ~.retire_events(p.name, p.lower, p.upper) THEN
			RETURN;
		END IF;
	END LOOP;
	did := ~.retire_strays(cut);
END $$;

REVOKE EXECUTE ON FUNCTION ~.seize, ~.put_part, ~.add_partition, ~.retire_history, ~.retire_events, ~.retire_strays,
	~.retire FROM PUBLIC;

SELECT ~.add_partition(86400, 3) FROM generate_series(0, 3);

