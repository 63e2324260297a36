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
	body          bytea NOT NULL
);
CREATE UNIQUE INDEX hook_name ON ~.hook (project, name) WHERE NOT deleted;
CREATE INDEX hook_owner ON ~.hook (owner);

-- Who counts what is held of a webhook, to claim more, locks its row here. Nothing is ever written to it.
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

-- Claims. One whose time is over counts for nothing, and makes room for the next or is deleted by a Claim.
CREATE TABLE ~.lease (
	id    uuid PRIMARY KEY,
	hook  bigint NOT NULL,
	token uuid NOT NULL,
	until timestamptz NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lease_hook ON ~.lease (hook);

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
	last_error bytea NOT NULL
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
INSERT INTO ~.chore VALUES ('rollup', '-infinity'), ('partitions', '-infinity');
