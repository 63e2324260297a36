package httpapi

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/postrider/postrider"
)

const (
	maxName  = 64      // bytes of a webhook's name, and of every ID
	maxType  = 128     // bytes of an event type
	maxQuery = 4 << 10 // bytes of a query string: more than all parameters need, and few enough to name every bad one
	maxShown = 80      // bytes of a bad value or name in an answer
)

// params are the parameters of a request. Its methods take one each, note what is wrong with it, and return the
// default if it is absent or wrong, so that an answer can list every bad parameter at once.
type params struct {
	known        []string               // in the order of the page
	values       map[string]string      // of those that were given once
	pathProblems []postrider.FieldError // of parameters in the path
	problems     []postrider.FieldError
}

// readParams reads a query string. A parameter that is unknown, given twice or not decodable is noted.
func readParams(raw string, known []string) *params {
	p := &params{known: known, values: map[string]string{}}
	if len(raw) > maxQuery {
		p.add("query", postrider.CodeRange, "is %d bytes, want at most %d", len(raw), maxQuery)
		return p
	}
	times := map[string]int{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			name = rawName
		}
		times[name]++
		if times[name] > 1 {
			if times[name] == 2 && slices.Contains(known, name) {
				delete(p.values, name)
				p.problems = slices.DeleteFunc(p.problems, func(f postrider.FieldError) bool { return f.Name == name })
				p.add(name, postrider.CodeFormat, "is given more than once, want it once")
			}
			continue
		}
		if err != nil || !slices.Contains(known, name) {
			p.add(name, postrider.CodeUnsupported, "is not a parameter here, want %s", wanted(known))
			continue
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			p.add(name, postrider.CodeFormat, "is %s, want valid percent-encoding", quote(rawValue))
			continue
		}
		p.values[name] = value
	}
	return p
}

func wanted(known []string) string {
	if len(known) == 0 {
		return "none"
	}
	return strings.Join(known, ", ")
}

func (p *params) add(name, code, format string, args ...any) {
	p.problems = append(p.problems, postrider.FieldError{Name: cut(name), Reason: fmt.Sprintf(format, args...), Code: code})
}

// addPath notes a problem of a parameter in the path.
func (p *params) addPath(name, format string, args ...any) {
	p.pathProblems = append(p.pathProblems, postrider.FieldError{Name: name, Reason: fmt.Sprintf(format, args...), Code: postrider.CodeFormat})
}

// err returns the problems: of the path, in the order of the page, of unknown parameters.
func (p *params) err() error {
	if len(p.pathProblems)+len(p.problems) == 0 {
		return nil
	}
	rank := func(f postrider.FieldError) int {
		if i := slices.Index(p.known, f.Name); i >= 0 {
			return i
		}
		return len(p.known)
	}
	slices.SortStableFunc(p.problems, func(a, b postrider.FieldError) int { return cmp.Compare(rank(a), rank(b)) })
	return &postrider.ValidationError{Fields: slices.Concat(p.pathProblems, p.problems)}
}

// integer takes a whole number in decimal digits. What does not fit an int is as good as the largest or smallest one.
// The advice is added to the reason if the number is too high.
func (p *params) integer(name string, standard, low, high int, advice string) int {
	text, ok := p.values[name]
	if !ok {
		return standard
	}
	bounds := fmt.Sprintf("%d to %d", low, high)
	if high == math.MaxInt {
		bounds = fmt.Sprintf("%d or more", low)
	}
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || strings.ContainsFunc(digits, func(r rune) bool { return r < '0' || r > '9' }) {
		p.add(name, postrider.CodeFormat, "is %s, want an integer, %s", quote(text), bounds)
		return standard
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		n = math.MaxInt
		if text[0] == '-' {
			n = math.MinInt
		}
	}
	if n < low || n > high {
		if n < low {
			advice = ""
		}
		p.add(name, postrider.CodeRange, "is %s, want %s%s", cut(text), bounds, advice)
		return standard
	}
	return n
}

// offset takes how many rows to skip.
func (p *params) offset(name, advice string) int {
	return p.integer(name, 0, 0, postrider.MaxOffset, advice)
}

// oneOf takes one of a few words.
func (p *params) oneOf(name string, words ...string) string {
	text, ok := p.values[name]
	if ok && !slices.Contains(words, text) {
		p.add(name, postrider.CodeRange, "is %s, want one of %s", quote(text), strings.Join(words, ", "))
		return ""
	}
	return text
}

// flag takes 1 or true, and 0, false or nothing.
func (p *params) flag(name string) bool {
	switch text := p.values[name]; text {
	case "1", "true":
		return true
	case "", "0", "false":
	default:
		p.add(name, postrider.CodeRange, "is %s, want 1, true, 0, false or empty", quote(text))
	}
	return false
}

// eventType takes the type of an event: not a pattern.
func (p *params) eventType(name string) string {
	text, ok := p.values[name]
	if ok && !word(text, maxType, "_.-") {
		p.add(name, postrider.CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_.-]", quote(text), maxType)
		return ""
	}
	return text
}

// token takes a page token, which only the query it is for can judge.
func (p *params) token(name string) string {
	text, ok := p.values[name]
	if ok && text == "" {
		p.add(name, postrider.CodeFormat, `is "", want nextPageToken of the page before, or no such parameter`)
	}
	return text
}

// rfc3339 is stricter than time.Parse, which takes an hour of one digit and a comma.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// time takes a date-time of RFC 3339. The zero time stands for no bound, so it cannot be asked for.
func (p *params) time(name string) time.Time {
	text, ok := p.values[name]
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || !rfc3339.MatchString(text) {
		hint := ""
		if strings.Contains(text, " ") {
			hint = "; a + in it is written %2B"
		}
		p.add(name, postrider.CodeFormat, "is %s, want a date-time of RFC 3339 such as 2026-01-02T15:04:05.000Z%s", quote(text), hint)
		return time.Time{}
	}
	t = t.UTC()
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		p.add(name, postrider.CodeRange, "is %s, want a time after the start of the year 1 and before the end of the year 9999, in UTC", quote(text))
		return time.Time{}
	}
	return t
}

// period takes the two ends of a time range.
func (p *params) period(fromName, toName string) (from, to time.Time) {
	from, to = p.time(fromName), p.time(toName)
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		p.add(toName, postrider.CodeRange, "is %s, want not before %s, %s", quote(p.values[toName]), fromName, quote(p.values[fromName]))
	}
	return from, to
}

// word reports whether s is 1 to most bytes of letters, digits and the bytes in extra.
func word(s string, most int, extra string) bool {
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(extra, r)
	})
}

// headerText reports whether s can be the value of a header.
func headerText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && unicode.IsControl(r) })
}

// quote shows a value: cut, so that a hostile one cannot flood an answer or a log.
func quote(s string) string {
	if len(s) > maxShown {
		return fmt.Sprintf("%q... (%d bytes)", s[:maxShown], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// cut shortens what is shown without quotes and makes it text.
func cut(s string) string {
	if len(s) > maxShown {
		s = s[:maxShown] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
