package bench

import (
	"fmt"
	"os"
	"strings"
)

// Section replaces what a Markdown file has between the lines "<!-- name -->" and "<!-- end of name -->", and leaves
// the rest as it is. A file without these two lines, in this order and once each, is an error and is not written.
func Section(path, name, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	for _, line := range []string{begin, end} {
		if n := strings.Count(string(old), line); n != 1 {
			return fmt.Errorf("%s has the line %q %d times, want once", path, line[:len(line)-1], n)
		}
	}
	before, rest, _ := strings.Cut(string(old), begin)
	_, after, found := strings.Cut(rest, end)
	if !found {
		return fmt.Errorf("%s ends %s before it begins", path, name)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+strings.TrimSpace(text)+"\n\n"+end+after), 0o644)
}
