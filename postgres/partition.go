package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
)

// Events, deliveries that ended and attempts lie in partitions by the time of their IDs.
//
//   - Partitions are made ahead by whoever waits and has the lock of the chore's row. If nobody could in time, rows go
//     to the default partitions, and nothing fails.
//   - A partition is dropped when all of its time is over for the age that Prune is told; until then its rows stay,
//     though the first ended a partition's time earlier. What has not ended, or later, is carried over.
//   - What lies in default partitions, and in old ones of which much has to stay, is deleted row by row. So is all if the
//     age is short: then partitions are dropped once they are empty.
//   - It is functions of the schema that make and drop partitions, with the rights of its owner: see 001.sql.

// ahead is how many partitions there are beyond the one of now.
const ahead = 3

const (
	addPartSQL = `SELECT ~.add_partition($1, $2)`

	// The chore is done if nobody has for ten minutes, or did when the server's clock was ahead.
	lockPartsSQL = `
SELECT name FROM ~.chore WHERE name = 'partitions'
	AND at NOT BETWEEN statement_timestamp() - $1::bigint * interval '1 microsecond'
	AND statement_timestamp() + $1::bigint * interval '1 microsecond'
FOR UPDATE SKIP LOCKED`

	donePartsSQL = `UPDATE ~.chore SET at = statement_timestamp() WHERE name = 'partitions'`

	retireSQL = `SELECT gone, did FROM ~.retire($1)`

	// noRetireSQL waits for whoever retires a partition, and keeps others from it.
	noRetireSQL = `SELECT FROM ~.chore WHERE name = 'retire' FOR SHARE`

	// belowSQL returns the ID at which partitions begin that are to be dropped later.
	belowSQL = `
SELECT lower FROM ~.part WHERE parent = 'delivery' AND ends > statement_timestamp() - $1::bigint * interval '1 microsecond'
ORDER BY lower LIMIT 1`

	defaultRowsSQL = `
SELECT (SELECT count(*) FROM (SELECT FROM ~.event_default LIMIT $1) r), (SELECT count(*) FROM (SELECT FROM ~.delivery_default LIMIT $1) r),
	(SELECT count(*) FROM (SELECT FROM ~.attempt_default LIMIT $1) r)`

	// partsSQL counts ahead only what follows on the partition of now without a gap.
	partsSQL = `
WITH p AS (SELECT * FROM ~.part WHERE parent = 'delivery')
SELECT count(*), min(starts), max(ends), coalesce((extract(epoch FROM min(ends) FILTER (
	WHERE ends > statement_timestamp() AND NOT EXISTS (SELECT FROM p n WHERE n.lower = p.upper)
		AND EXISTS (SELECT FROM p n WHERE n.starts <= statement_timestamp() AND n.ends > statement_timestamp())
) - statement_timestamp()) * 1000000)::bigint, 0)
FROM p`
)

// parts is what a process knows of its work on partitions.
type parts struct {
	gap  time.Duration // between two tries to make partitions
	idle time.Duration // until it is asked again for what to drop, when there was nothing

	// Guarded by Store.mu.
	tried   time.Time // to make partitions
	looked  time.Time // for what to drop, in vain: as it began
	later   bool      // dropping was not possible at that moment
	byRow   bool      // dropping is not possible
	adding  string    // the trouble that was logged
	dropped string
	strays  bool // rows in default partitions were logged
}

// PartitionStats says how the partitions of the history stand.
type PartitionStats struct {
	// Count is how many times there are partitions for, each for events, deliveries and attempts.
	Count int
	// From and Until are the first and the last moment that there are partitions for; zero if there are none.
	From, Until time.Time
	// Ahead is how long there will be partitions from now on without a gap, on the server's clock. With 0, what is stored
	// now goes to the default partitions.
	Ahead time.Duration
	// Events, Deliveries and Attempts are the rows in the default partitions, where nothing is dropped as a whole: 0 if
	// all is well. Of each at most 100,000 are counted.
	Events, Deliveries, Attempts int
}

// Partitions says how the partitions stand, for a metric: Ahead should be days, and the default partitions empty.
func (s *Store) Partitions(ctx context.Context) (PartitionStats, error) {
	if err := s.enter(ctx); err != nil {
		return PartitionStats{}, err
	}
	defer s.leave()
	return s.partitions(ctx)
}

func (s *Store) partitions(ctx context.Context) (st PartitionStats, err error) {
	err = s.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var from, until pgtype.Timestamptz
		var left int64
		if err := tx.QueryRow(ctx, s.sql(partsSQL)).Scan(&st.Count, &from, &until, &left); err != nil {
			return err
		}
		st.From, st.Until, st.Ahead = when(from), when(until), time.Duration(left)*time.Microsecond
		return tx.QueryRow(ctx, s.sql(defaultRowsSQL), 100_000).Scan(&st.Events, &st.Deliveries, &st.Attempts)
	})
	return st, err
}

// makePartitions makes those that are due. That it fails is logged, once: rows then go to the default partitions.
func (s *Store) makePartitions(ctx context.Context) {
	n, err := s.addPartitions(ctx, 10*time.Minute)
	if ctx.Err() != nil || err == nil && n < 0 {
		return
	}
	s.trouble(ctx, &s.parts.adding, "partitions cannot be made: what is stored will go to the default ones", err)
	if err != nil {
		return
	}
	st, err := s.partitions(ctx)
	strays := err == nil && st.Events+st.Deliveries+st.Attempts > 0
	s.mu.Lock()
	fresh := strays && !s.parts.strays
	s.parts.strays = strays
	s.mu.Unlock()
	if fresh {
		s.o.Logger.WarnContext(ctx, "rows are in default partitions: they are deleted one by one",
			"events", st.Events, "deliveries", st.Deliveries, "attempts", st.Attempts)
	}
}

// addPartitions makes the partitions that are due. It ends when somebody else is at it, and n is -1 if that is so, or has
// been within gap, from the beginning. Each is made in a transaction of its own, so that no lock lasts.
func (s *Store) addPartitions(ctx context.Context, gap time.Duration) (n int, err error) {
	for made := true; made; {
		err := s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
			made = false
			mine, err := collect(ctx, tx, s.sql(lockPartsSQL), pgx.RowTo[string], gap.Microseconds())
			if err != nil {
				return err
			}
			if len(mine) == 0 {
				n = cmp.Or(n, -1)
				return nil
			}
			if err := tx.QueryRow(ctx, s.sql(addPartSQL), int(s.o.Partition/time.Second), ahead).Scan(&made); err != nil || made {
				return err
			}
			_, err = tx.Exec(ctx, s.sql(donePartsSQL))
			return err
		})
		if err != nil {
			return n, err
		}
		if made {
			n++
		}
	}
	return n, nil
}

// retire does a step towards dropping partitions that are over, if there is one to do. Else it returns the ID below which
// rows are to be deleted one by one.
func (s *Store) retire(ctx context.Context, age time.Duration) (n int, did bool, below uid, err error) {
	all := uid{Valid: true}
	for i := range all.Bytes {
		all.Bytes[i] = 0xff
	}
	s.mu.Lock()
	look := time.Since(s.parts.looked) >= s.parts.idle
	s.mu.Unlock()
	if look {
		// Those that are emptied row by row are dropped too.
		if n, did, err = s.drop(ctx, max(age, 2*s.o.Partition)); err != nil || did {
			return n, did, all, err
		}
	}
	s.mu.Lock()
	wait, later, byRow := time.Since(s.parts.looked), s.parts.later, s.parts.byRow
	s.mu.Unlock()
	if byRow || age < 2*s.o.Partition {
		return 0, false, all, nil
	}
	if later { // it has as long as the partition's time to become possible
		wait += s.o.Partition
	}
	age += min(wait, postrider.Forever-age)
	rows, err := ask(ctx, s, belowSQL, pgx.RowTo[uid], age.Microseconds())
	if err != nil || len(rows) == 0 {
		return 0, false, all, err
	}
	return 0, false, rows[0], nil
}

// drop does the step. Trouble with it is logged, and not the caller's: rows are deleted instead.
func (s *Store) drop(ctx context.Context, age time.Duration) (n int, did bool, err error) {
	busy, began := false, time.Now()
	err = s.write(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n, did = 0, false
		mine, err := collect(ctx, tx, s.sql(lockChoreSQL), pgx.RowTo[string], "retire")
		if busy = err == nil && len(mine) == 0; err != nil || busy {
			return err
		}
		// Sooner than the caller's patience is over, which is an error, this is just not possible now.
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL statement_timeout = %d", s.o.Timeout.Milliseconds()/4)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, s.sql(retireSQL), age.Microseconds()).Scan(&n, &did)
	})
	var server *pgconn.PgError
	if ctx.Err() != nil || err != nil && !errors.As(err, &server) {
		return 0, false, err
	}
	s.mu.Lock()
	p := &s.parts
	p.later, p.byRow = busy, false
	if err != nil {
		n, did = 0, false
		p.later = transient(server.Code)
		p.byRow = !p.later
	}
	if !did {
		p.looked = began
	}
	s.mu.Unlock()
	if !busy {
		s.trouble(ctx, &p.dropped, "partitions cannot be dropped: their rows will be deleted one by one", err)
	}
	return n, did, nil
}

// transient reports whether it may just have been a bad moment: a lock, a deadlock, a time that was over.
func transient(code string) bool {
	switch code {
	case "55P03", "40P01", "40001", "57014":
		return true
	}
	return false
}

// trouble logs an error unless it is what was logged last.
func (s *Store) trouble(ctx context.Context, last *string, message string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	fresh := text != *last
	*last = text
	s.mu.Unlock()
	if fresh && err != nil {
		s.o.Logger.Log(ctx, slog.LevelWarn, message, "error", err)
	}
}
