package postrider

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text forms of the small sets: State, Status and Class.

func textOf[T ~uint8](names []string, v T, set string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", set, v)
}

func marshalText[T ~uint8](names []string, v T, set string) ([]byte, error) {
	if int(v) >= len(names) {
		return nil, fmt.Errorf("postrider: %s is %d, want 0 to %d", set, v, len(names)-1)
	}
	return []byte(names[v]), nil
}

func unmarshalText[T ~uint8](names []string, v *T, b []byte, set string) error {
	i := slices.Index(names, string(b))
	if i < 0 {
		return fmt.Errorf("postrider: %s is %s, want one of %s", set, quote(string(b)), strings.Join(names, " "))
	}
	*v = T(i)
	return nil
}

func validText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
