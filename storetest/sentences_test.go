package storetest_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/storetest"
)

// exempt are sentences of the contract that no case checks, and why.
var exempt = map[string]string{
	"Enqueuer stores events.": "what it is; the rest of the page says how",
	"Events are valid and have an ID and a Time; the Dispatcher sees to that.": "a duty of the caller",
	"One caller at a time.": "a duty of the caller",
	"A new store is finished when storetest.Run passes; a case that fails prints the sentence of this page that it checks.": "about this suite",
	"What was committed at the same time stands in any order.":                                                              "leave, not a duty",
	"A store that drops what is old by the part may delete more at a time, and later.":                                      "leave, not a duty",
	"Deliveries returns a page of deliveries.":                                                                              "its bullets say what a page is",
	"Rules for every method:": "a heading",
}

var (
	spaces = regexp.MustCompile(`\s+`)
)

// comments returns the comments of a file of the parent folder as one line, without markers.
func comments(t *testing.T, name string) string {
	text, err := os.ReadFile("../" + name)
	require.NoError(t, err)
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if _, comment, ok := strings.Cut(line, "// "); ok {
			b.WriteString(comment)
		} else if strings.TrimSpace(line) != "//" {
			b.WriteString(" | ") // no sentence goes on behind code
		}
	}
	return spaces.ReplaceAllString(b.String(), " ")
}

func TestSentencesStandInTheContract(t *testing.T) {
	t.Parallel()
	names, text := map[string]bool{}, map[string]string{}
	for _, c := range storetest.Cases() {
		file := c.File
		if file == "" {
			file = "store.go"
		}
		if text[file] == "" {
			text[file] = comments(t, file)
		}
		assert.Contains(t, text[file], c.Says, "case %s, %s", c.Name, file)
		assert.False(t, names[c.Name], "two cases are named %s", c.Name)
		names[c.Name] = true
	}
}

// clauses returns the sentences of the comments on Enqueuer and Store and their methods; bullets are marked.
func clauses(t *testing.T) (list []string) {
	text, err := os.ReadFile("../store.go")
	require.NoError(t, err)
	page, _, ok := strings.Cut(string(text), "// Item is one event")
	require.True(t, ok, "store.go begins with its interfaces")
	_, page, ok = strings.Cut(page, "// Enqueuer stores")
	require.True(t, ok, "store.go begins with Enqueuer")
	page = "// Enqueuer stores" + page
	var block []string
	flush := func() {
		text := strings.TrimSpace(spaces.ReplaceAllString(strings.Join(block, " "), " "))
		block = nil
		for text != "" {
			at := regexp.MustCompile(`[.:] (?:[A-Z]|more )`).FindStringIndex(text)
			if at == nil {
				list = append(list, text)
				return
			}
			if text[at[0]] == ':' {
				// A colon ends a sentence only before a list; "ErrExists: The" would be one sentence.
				next := regexp.MustCompile(`\. (?:[A-Z]|more )`).FindStringIndex(text)
				if next == nil {
					list = append(list, text)
					return
				}
				at = next
			}
			list = append(list, text[:at[0]+1])
			text = strings.TrimSpace(text[at[0]+1:])
		}
	}
	for line := range strings.Lines(page) {
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "//")
		comment = strings.TrimSpace(comment)
		bullet, isBullet := strings.CutPrefix(comment, "- ")
		if !ok || comment == "" || isBullet {
			flush()
		}
		if ok {
			block = append(block, bullet)
		}
	}
	flush()
	return list
}

func TestEverySentenceHasACase(t *testing.T) {
	t.Parallel()
	list := clauses(t)
	require.Greater(t, len(list), 60)
	for _, clause := range list {
		covered := slices.ContainsFunc(storetest.Cases(), func(c storetest.Case) bool {
			return c.File == "" && (strings.Contains(clause, c.Says) || strings.Contains(c.Says, clause))
		})
		if exempt[clause] == "" {
			assert.True(t, covered, "store.go says: %s\nno case checks it", clause)
		}
	}
	for clause := range exempt {
		assert.Contains(t, list, clause, "an exempt sentence that store.go does not have")
	}
}
