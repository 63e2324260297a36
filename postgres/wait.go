package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/postrider/postrider"
)

// bell wakes Wait. What happens in this process rings it; other processes are told by NOTIFY, at most once every quiet,
// and who hears it looks again after quiet for what came in between. Whoever is not told polls.
type bell struct {
	ring chan struct{} // buffered(1)

	mu     sync.Mutex
	stop   context.CancelFunc // ends the present Wait for notifications; nil if there is none
	told   time.Time          // when the others were last told
	again  bool               // a notification was heard: look once more after quiet
	hurry  time.Time          // until then poll fast: a transaction of the caller's is about to commit
	listen *pgx.Conn          // used by Wait alone, closed by close if Wait does not
	busy   bool               // Wait uses listen
	dead   bool
}

const (
	quiet     = 100 * time.Millisecond
	hurryPoll = 20 * time.Millisecond
	hurryFor  = 2 * time.Second
)

func (b *bell) signal() {
	select {
	case b.ring <- struct{}{}:
	default:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		b.stop()
	}
}

// wake tells this process and, now and then, the others that something may have become due.
func (s *Store) wake(ctx context.Context) {
	s.bell.signal()
	if s.o.PollOnly {
		return
	}
	s.bell.mu.Lock()
	due := time.Since(s.bell.told) >= quiet
	if due {
		s.bell.told = time.Now()
	}
	s.bell.mu.Unlock()
	if due {
		// They poll: nothing is lost if they are not told.
		ctx, cancel := context.WithTimeout(ctx, listenTime)
		defer cancel()
		_, _ = s.pool.Exec(ctx, `SELECT pg_notify($1, '')`, s.channel())
	}
}

// channel returns the name of what is notified on: at most 63 bytes, so that the server takes it.
func (s *Store) channel() string {
	name := "postrider:" + s.schema
	if len(name) > 63 {
		sum := sha256.Sum256([]byte(name))
		name = "postrider:" + hex.EncodeToString(sum[:16])
	}
	return name
}

// expect makes Wait poll fast for a while: the caller's transaction may commit at any moment, unseen.
func (s *Store) expect() {
	s.bell.mu.Lock()
	s.bell.hurry = time.Now().Add(hurryFor)
	s.bell.mu.Unlock()
	s.bell.signal()
}

// Wait returns when something may have become due, and every Options.Poll. Before that it does the chores, which a Close
// waits for.
func (s *Store) Wait(ctx context.Context) error {
	select {
	case <-s.closed: // before a wake-up that is left over
		return postrider.ErrClosed
	default:
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.chores(ctx)
	s.leave()
	conn := s.listener(ctx)
	defer s.bell.rest()
	for {
		err := s.sleep(ctx, conn)
		select {
		case <-s.closed:
			return postrider.ErrClosed
		default:
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || conn == nil {
			return nil
		}
		conn = s.lost()
	}
}

// sleep waits for the bell, a notification or the time to poll; an error is that of the connection.
func (s *Store) sleep(ctx context.Context, conn *pgx.Conn) error {
	wait := s.bell.interval(s.o.Poll)
	if conn == nil {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-s.closed:
		case <-ctx.Done():
		case <-s.bell.ring:
		case <-t.C:
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	s.bell.mu.Lock()
	s.bell.stop = cancel
	s.bell.mu.Unlock()
	defer func() {
		s.bell.mu.Lock()
		s.bell.stop = nil
		s.bell.mu.Unlock()
	}()
	select {
	case <-s.bell.ring:
		return nil
	case <-s.closed:
		return nil
	default:
	}
	_, err := conn.WaitForNotification(ctx)
	if err == nil {
		s.bell.mu.Lock()
		s.bell.again = true
		s.bell.mu.Unlock()
		return nil
	}
	select {
	case <-s.bell.ring:
	default:
	}
	if ctx.Err() != nil && !conn.IsClosed() {
		return nil
	}
	return err
}

// interval returns how long to sleep at most.
func (b *bell) interval(poll time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := time.Duration(float64(poll) * (0.8 + 0.4*rand.Float64()))
	if b.again {
		wait, b.again = min(wait, quiet), false
	}
	if time.Now().Before(b.hurry) {
		wait = min(wait, hurryPoll)
	}
	return wait
}

// listener returns the connection that listens, nil if there is none to be had: then Wait polls. Others ring the bell
// meanwhile, so mu is not held while the server is spoken to.
func (s *Store) listener(ctx context.Context) *pgx.Conn {
	b := &s.bell
	b.mu.Lock()
	b.busy = true
	conn, dead := b.listen, b.dead
	b.mu.Unlock()
	switch {
	case s.o.PollOnly || dead:
		return nil
	case conn != nil && !conn.IsClosed():
		return conn
	}
	if conn = s.listen(ctx); conn != nil {
		b.mu.Lock()
		b.listen = conn // rest closes it if the store was closed meanwhile
		b.mu.Unlock()
	}
	return conn
}

// listenTime bounds how long a connection that listens may take to be made, and a notification to be sent.
const listenTime = 5 * time.Second

// listen makes a connection that listens, nil if that cannot be.
func (s *Store) listen(ctx context.Context) *pgx.Conn {
	if st := s.pool.Stat(); s.pool.Config().MaxConns < 4 || st.AcquiredConns() >= st.MaxConns() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, listenTime)
	defer cancel()
	c, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil
	}
	conn := c.Hijack() // it is this store's from now on, and takes no place in the pool
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.channel()}.Sanitize()); err != nil {
		shutDown(conn)
		return nil
	}
	return conn
}

// lost forgets a connection that broke. The next Wait makes another.
func (s *Store) lost() *pgx.Conn {
	s.bell.mu.Lock()
	conn := s.bell.listen
	s.bell.listen = nil
	s.bell.mu.Unlock()
	if conn != nil {
		shutDown(conn)
	}
	return nil
}

// rest ends a Wait's use of the connection.
func (b *bell) rest() {
	b.mu.Lock()
	b.busy = false
	conn := b.idleLocked()
	b.mu.Unlock()
	if conn != nil {
		shutDown(conn)
	}
}

// idleLocked takes the connection away if the store is closed and no Wait uses it.
func (b *bell) idleLocked() *pgx.Conn {
	if !b.dead || b.busy {
		return nil
	}
	conn := b.listen
	b.listen = nil
	return conn
}

// close ends the present Wait and the connection.
func (b *bell) close() {
	b.mu.Lock()
	b.dead = true
	if b.stop != nil {
		b.stop()
	}
	conn := b.idleLocked()
	b.mu.Unlock()
	if conn != nil {
		shutDown(conn)
	}
}

func shutDown(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := conn.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return // it is gone either way
	}
}
