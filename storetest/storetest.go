// Package storetest is the conformance suite of postrider.Store. A store is finished when Run passes.
//
// Each case checks one sentence of the contract and prints it when it fails, with what was expected and what came.
// Cases run in a fixed order, from what everything needs to what few stores have, so that the first one that fails is
// the one to look at. Each works on a store of its own, and time is the suite's: it moves by steps, nothing sleeps.
//
// The package also has a Benchmark for every store, and Faults, a store that fails on demand.
package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postrider/postrider"
)

// Harness tells the suite how to get at a store. Open is required; each of the other fields adds tests.
type Harness struct {
	// Open returns a new, empty store that measures time with now. The suite closes it. What a store needs besides,
	// such as a pool of connections, is made before Run: goroutines that Open leaves behind count as the store's.
	Open func(t *testing.T, now func() time.Time) postrider.Store

	// Advance, if set, is called whenever the suite moves its time, for stores that measure on a clock which now does
	// not reach, a database server's: it makes everything in s older by d. The suite then allows a minute for time
	// that passes by itself.
	Advance func(t *testing.T, s postrider.Store, d time.Duration)

	// Reopen, if set, adds the tests of what survives: it closes s and opens the same data again.
	Reopen func(t *testing.T, s postrider.Store, now func() time.Time) postrider.Store

	// Begin, if set, adds the tests of the caller's transaction: it begins one in which events can be stored. Until
	// it ends the suite calls nothing else.
	Begin func(t *testing.T, s postrider.Store) Tx

	// Shared, if set, adds the tests of two handles on one store: it returns another handle on what s keeps. The
	// suite closes it before s.
	Shared func(t *testing.T, s postrider.Store, now func() time.Time) postrider.Store
}

// Tx is a transaction of the caller's: what is enqueued is there after Commit, and never after Rollback.
type Tx interface {
	postrider.Enqueuer
	Commit() error
	Rollback() error
}

// Run runs the suite on the stores of h, each case in a subtest.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, c := range allCases() {
		if !c.fits(h) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if failure := c.check(t, h, patience, false); failure != "" {
				t.Error(failure)
			}
		})
	}
}

// patience is how long the suite waits for another goroutine. It matters only when a case fails.
const patience = 20 * time.Second

// testCase checks one sentence of the contract.
type testCase struct {
	name string // stable: people pass it to go test -run
	says string // the sentence, as it stands in the file
	run  func(x *suite)
	file string               // where the sentence stands; store.go if empty
	need func(h Harness) bool // whether the harness can run it; any if nil
}

// allCases returns the cases in their order.
func allCases() []testCase {
	return slices.Concat(
		enqueueCases, claimCases, heldCases, completeCases, waitCases, webhookCases, queryCases, changeCases,
		laneCases, laneEndCases, runCases, statsCases, healthCases, ruleCases,
		reopenCases, reopenMoreCases, txCases, txMoreCases, sharedCases, sharedMoreCases, closeCases, filterCases, longCases,
	)
}

func (c testCase) fits(h Harness) bool { return c.need == nil || c.need(h) }

// check runs the case and returns what is wrong, "" if nothing is. It does not fail t, so that the suite's own tests
// can watch broken stores fail.
func (c testCase) check(t *testing.T, h Harness, patience time.Duration, brief bool) (failed string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	x := &suite{t: t, h: h, ctx: ctx, patience: patience, brief: brief || testing.Short(), clock: newClock(h), tick: time.Microsecond}
	if h.Advance != nil {
		x.tick = time.Minute
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			failed = string(r)
		default:
			panic(r)
		}
		if failed != "" {
			file := c.file
			if file == "" {
				file = "store.go"
			}
			failed = fmt.Sprintf("%s says: %s\n%s", file, c.says, failed)
		}
	}()
	x.book = newBook(x.clock, x.tick)
	defer x.closeAll()
	x.s = x.open()
	c.run(x)
	x.verdict()
	return ""
}
