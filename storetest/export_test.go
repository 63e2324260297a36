package storetest

import (
	"testing"
	"time"
)

// Case is what the suite's own tests know of a case.
type Case struct{ Name, Says, File string }

// Cases returns the cases in their order.
func Cases() (list []Case) {
	for _, c := range allCases() {
		list = append(list, Case{c.name, c.says, c.file})
	}
	return list
}

// FirstFailure runs the cases until one fails and returns its name and what it prints; "" if all pass.
func FirstFailure(t *testing.T, h Harness, patience time.Duration) (name, failure string) {
	for _, c := range allCases() {
		if c.fits(h) {
			if failure := c.check(t, h, patience, true); failure != "" {
				return c.name, failure
			}
		}
	}
	return "", ""
}
