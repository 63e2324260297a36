package httpapi

import (
	"strconv"
	"strings"

	"github.com/postrider/postrider"
)

// form is how a view shows errors.
type form struct {
	missing string // the message of a 404
	body    func(failure) any
}

// failure is an answer that is not 200.
type failure struct {
	status   int
	message  string
	fields   []postrider.FieldError // of a 400, all of them
	internal string                 // "": not to be shown
}

// sentence returns the message, with every bad parameter, for views that have no list of them.
func (f *failure) sentence() string {
	var b strings.Builder
	b.WriteString(f.message)
	for i, field := range f.fields {
		name := field.Name
		if !word(name, maxShown, "_-.") {
			name = strconv.Quote(name)
		}
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(name + " " + field.Reason)
	}
	return b.String()
}
