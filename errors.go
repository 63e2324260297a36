package postrider

import (
	"errors"
	"fmt"
	"strings"
)

// What a call on one webhook, event or delivery can answer.
var (
	// ErrNotFound: no such webhook, event or delivery. It may have been deleted or pruned.
	ErrNotFound = errors.New("postrider: not found")
	// ErrExists: a webhook with this ID, or with this name in this project, is there already.
	ErrExists = errors.New("postrider: exists already")
	// ErrConflict: the webhook was changed by somebody else since it was read.
	ErrConflict = errors.New("postrider: changed since it was read")
	// ErrEnded: the delivery is delivered, canceled or failed; an ended delivery never changes.
	ErrEnded = errors.New("postrider: delivery has ended")
	// ErrInvalid: a value was refused and nothing was stored. Every error that is ErrInvalid carries a *ValidationError.
	ErrInvalid = errors.New("postrider: invalid")
)

// What a store can answer to any call.
var (
	// ErrFull: there is no room, and nothing was stored. The store recovers by itself once there is room.
	ErrFull = errors.New("postrider: store is full")
	// ErrStore: the store could not do it, and whether it did is unknown. After a failed sync it stays so until
	// the store is opened again.
	ErrStore = errors.New("postrider: store failed")
	// ErrClosed: the store is closed, and nothing was stored.
	ErrClosed = errors.New("postrider: store is closed")
)

// Codes of a FieldError, for programs.
const (
	CodeRequired    = "required"
	CodeFormat      = "bad_format"
	CodeRange       = "out_of_range"
	CodeUnsupported = "unsupported"
)

// FieldError is one problem of one value.
type FieldError struct {
	Name   string // the field, as in Webhook.URL, events[3].Type or Config.Drain
	Reason string // a sentence for people with the value (never a secret, never a whole URL) and the bound
	Code   string // one of the Code constants
}

// ValidationError lists every problem of a value at once. It is ErrInvalid.
type ValidationError struct {
	Fields []FieldError // at least one, in the order of the value's fields
}

// Error returns all problems in one line.
func (e *ValidationError) Error() string {
	var b strings.Builder
	b.WriteString("postrider: invalid: ")
	for i, f := range e.Fields {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Name + " " + f.Reason)
	}
	return b.String()
}

// Is makes errors.Is(err, ErrInvalid) true.
func (e *ValidationError) Is(target error) bool { return target == ErrInvalid }

// problems collects what is wrong with a value.
type problems []FieldError

func (p *problems) add(name, code, format string, args ...any) {
	*p = append(*p, FieldError{Name: name, Reason: fmt.Sprintf(format, args...), Code: code})
}

// prefix puts text before the names of the problems from the given one on.
func (p problems) prefix(from int, text string) {
	for i := from; i < len(p); i++ {
		p[i].Name = text + p[i].Name
	}
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &ValidationError{Fields: p}
}

// within notes a number outside its bounds.
func within[T ~int | ~int64](p *problems, name string, v, low, high T) {
	if v < low || v > high {
		p.add(name, CodeRange, "is %v, want %v to %v", v, low, high)
	}
}

// word reports whether s is low to high bytes of letters, digits and the bytes in extra.
func word(s string, low, high int, extra string) bool {
	if len(s) < low || len(s) > high {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric[c] && strings.IndexByte(extra, c) < 0 {
			return false
		}
	}
	return true
}

// alphanumeric has the letters and digits: a table is faster than comparing.
var alphanumeric = func() (table [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") {
		table[c] = true
	}
	return table
}()

// quote shows a value in a reason: cut, so that a hostile value cannot flood a log.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q... (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}
