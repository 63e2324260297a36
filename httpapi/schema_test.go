package httpapi_test

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// schemas checks values against the part of JSON Schema that docs/openapi.json uses. A keyword that it does not know is
// an error, so that nothing in the file is only decoration.
type schemas struct{ file map[string]any }

// resolve follows a $ref, if that is what v is.
func (s schemas) resolve(v any) (map[string]any, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("want an object, got %v", v)
	}
	ref, ok := object["$ref"].(string)
	if !ok {
		return object, nil
	}
	path, ok := strings.CutPrefix(ref, "#/")
	if !ok || len(object) != 1 {
		return nil, fmt.Errorf("want {$ref: #/...} and nothing else, got %v", object)
	}
	v = s.file
	for key := range strings.SplitSeq(path, "/") {
		object, _ := v.(map[string]any)
		if v, ok = object[key]; !ok {
			return nil, fmt.Errorf("%s leads nowhere", ref)
		}
	}
	return s.resolve(v)
}

// check returns the first way in which the value, as encoding/json decodes it, is not what the schema wants.
func (s schemas) check(at string, schema, value any) error {
	rules, err := s.resolve(schema)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	object, _ := value.(map[string]any)
	for keyword, rule := range rules {
		ok := true
		switch keyword {
		case "description", "format", "default":
		case "type":
			types, several := rule.([]any)
			if !several {
				types = []any{rule}
			}
			ok = slices.ContainsFunc(types, func(t any) bool { return isType(t, value) })
		case "enum":
			ok = slices.Contains(rule.([]any), value)
		case "pattern":
			text, is := value.(string)
			ok = !is || regexp.MustCompile(rule.(string)).MatchString(text)
		case "minLength":
			text, is := value.(string)
			ok = !is || utf8.RuneCountInString(text) >= int(rule.(float64))
		case "maxLength":
			text, is := value.(string)
			ok = !is || utf8.RuneCountInString(text) <= int(rule.(float64))
		case "minimum":
			n, is := value.(float64)
			ok = !is || n >= rule.(float64)
		case "maximum":
			n, is := value.(float64)
			ok = !is || n <= rule.(float64)
		case "required":
			for _, key := range rule.([]any) {
				if _, is := object[key.(string)]; object != nil && !is {
					return fmt.Errorf("%s lacks %s", at, key)
				}
			}
		case "additionalProperties":
			if rule != false {
				return fmt.Errorf("%s: additionalProperties %v is not known", at, rule)
			}
			known, _ := rules["properties"].(map[string]any)
			for key := range object {
				if _, is := known[key]; !is {
					return fmt.Errorf("%s has %s, which is not documented", at, key)
				}
			}
		case "properties":
			for key, sub := range rule.(map[string]any) {
				if v, is := object[key]; is {
					if err := s.check(at+"."+key, sub, v); err != nil {
						return err
					}
				}
			}
		case "items":
			list, _ := value.([]any)
			for i, v := range list {
				if err := s.check(fmt.Sprintf("%s[%d]", at, i), rule, v); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("%s: keyword %s is not known", at, keyword)
		}
		if !ok {
			return fmt.Errorf("%s is %v, want %s %v", at, value, keyword, rule)
		}
	}
	return nil
}

func isType(name, value any) bool {
	switch v := value.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && v == math.Trunc(v)
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}

// The checker must be able to say no.
func TestSchemasRefuse(t *testing.T) {
	t.Parallel()
	var file map[string]any
	require.NoError(t, json.Unmarshal([]byte(`{"a":{"type":"object","required":["n"],"additionalProperties":false,"properties":{
		"n":{"type":["integer","null"],"minimum":1,"maximum":9},"s":{"type":"string","pattern":"^a","minLength":2,"maxLength":3},
		"e":{"enum":["x","y"]},"l":{"type":"array","items":{"type":"boolean"}},"r":{"$ref":"#/a"},"b":{"$ref":"#/nowhere"},"k":{"oneOf":[]}}}}`), &file))
	s := schemas{file}
	for text, want := range map[string]string{
		`{"n":1,"s":"ab","e":"x","l":[true],"r":{"n":null}}`: "",
		`[]`:                       "x is [], want type object",
		`{}`:                       "x lacks n",
		`{"n":0}`:                  "x.n is 0, want minimum 1",
		`{"n":10}`:                 "x.n is 10, want maximum 9",
		`{"n":1.5}`:                "x.n is 1.5, want type [integer null]",
		`{"n":1,"z":1}`:            "x has z, which is not documented",
		`{"n":1,"s":"ba"}`:         "x.s is ba, want pattern ^a",
		`{"n":1,"s":"a"}`:          "x.s is a, want minLength 2",
		`{"n":1,"s":"aaaa"}`:       "x.s is aaaa, want maxLength 3",
		`{"n":1,"s":null}`:         "x.s is <nil>, want type string",
		`{"n":1,"e":"z"}`:          "x.e is z, want enum [x y]",
		`{"n":1,"l":[true,1]}`:     "x.l[1] is 1, want type boolean",
		`{"n":1,"r":{"n":"text"}}`: "x.r.n is text, want type [integer null]",
		`{"n":1,"b":1}`:            "x.b: #/nowhere leads nowhere",
		`{"n":1,"k":1}`:            "x.k: keyword oneOf is not known",
	} {
		var value any
		require.NoError(t, json.Unmarshal([]byte(text), &value))
		err := s.check("x", map[string]any{"$ref": "#/a"}, value)
		if want == "" {
			require.NoError(t, err, text)
			continue
		}
		require.EqualError(t, err, want, text)
	}
}
