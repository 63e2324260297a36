package postgres

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

// filter is a DeliveryQuery as SQL over the columns that open and delivery share. It selects just what Matches does.
type filter struct {
	args    []any
	way     []string // what an index serves: conditions that stand in the scan
	rest    []string // what each row of the scan is held against
	nothing bool     // no row can match
	open    bool     // rows of open can match
	ended   bool     // rows of delivery can
}

func (f *filter) arg(v any) string {
	f.args = append(f.args, v)
	return "$" + strconv.Itoa(len(f.args))
}

// newFilter returns the filter of a valid query.
func newFilter(q *postrider.DeliveryQuery) *filter {
	f := &filter{open: true, ended: true}
	f.nothing = !storable(q.WebhookID, q.Owner)
	f.ways(q)
	if q.Owner != "" && !f.nothing {
		f.rest = append(f.rest, "x.hook = ANY (ARRAY(SELECT no FROM ~.hook WHERE owner = "+f.arg(q.Owner)+"))")
	}
	if prefix, many := strings.CutSuffix(q.EventType, "*"); many {
		f.rest = append(f.rest, "starts_with(x.type, "+f.arg(prefix)+")")
	} else if q.EventType != "" {
		f.rest = append(f.rest, "x.type = "+f.arg(q.EventType))
	}
	f.statuses(q.Statuses)
	f.code(q.Code)
	if q.MinAttempts > 0 {
		f.rest = append(f.rest, "x.attempts >= "+f.arg(q.MinAttempts))
	}
	if !q.From.IsZero() {
		f.rest = append(f.rest, "x.created >= "+f.arg(ceil(q.From)))
	}
	if !q.To.IsZero() {
		f.rest = append(f.rest, "x.created <= "+f.arg(q.To.Truncate(time.Microsecond)))
	}
	if q.Test != postrider.ChoiceAny {
		f.rest = append(f.rest, "x.test = "+f.arg(q.Test == postrider.ChoiceYes))
	}
	return f
}

// ceil returns the first microsecond that is not before t.
func ceil(t time.Time) time.Time {
	if c := t.Truncate(time.Microsecond); c.Before(t) {
		return c.Add(time.Microsecond)
	}
	return t
}

func (f *filter) ways(q *postrider.DeliveryQuery) {
	id := func(column, text string) {
		if text == "" {
			return
		}
		u, ok := parseUID(text)
		f.nothing = f.nothing || !ok
		f.way = append(f.way, column+" = "+f.arg(u))
	}
	id("x.id", q.ID)
	id("x.replay_of", q.ReplayOf)
	if q.EventID != "" {
		f.way = append(f.way, "x.event = ANY (ARRAY(SELECT uid FROM ~.event_key WHERE id = "+f.arg(q.EventID)+"))")
	}
	if q.WebhookID != "" && !f.nothing {
		f.way = append(f.way, "x.hook = (SELECT no FROM ~.hook WHERE id = "+f.arg(q.WebhookID)+")")
	}
	if q.Project != "" {
		f.way = append(f.way, "x.project = "+f.arg(q.Project))
	}
}

func (f *filter) statuses(list []postrider.Status) {
	if len(list) == 0 {
		return
	}
	f.open, f.ended = false, false
	var nos []int16
	for _, s := range list {
		nos = append(nos, int16(s))
		f.open, f.ended = f.open || !s.Final(), f.ended || s.Final()
	}
	f.rest = append(f.rest, "x.status = ANY ("+f.arg(nos)+"::smallint[])")
}

func (f *filter) code(code string) {
	switch {
	case code == "":
	case code == postrider.CodeNone:
		f.rest = append(f.rest, "x.last_code = 0")
	case strings.HasSuffix(code, "xx"):
		f.rest = append(f.rest, fmt.Sprintf("x.last_code BETWEEN %c00 AND %c99", code[0], code[0]))
	default:
		n, _ := strconv.Atoi(code) // it is valid
		f.rest = append(f.rest, fmt.Sprintf("x.last_code = %d", n))
	}
}

// where returns the conditions, all of them with AND before.
func where(lists ...[]string) string {
	var b strings.Builder
	for _, list := range lists {
		for _, c := range list {
			b.WriteString(" AND " + c)
		}
	}
	return b.String()
}
