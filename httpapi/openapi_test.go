package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/httpapi"
	"github.com/postrider/postrider/storetest"
)

func openAPI(t *testing.T) schemas {
	text, err := os.ReadFile(filepath.Join("..", "docs", "openapi.json"))
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, json.Unmarshal(text, &file))
	require.Equal(t, "3.1.0", file["openapi"])
	return schemas{file}
}

// operation is what the file says of GET at one path.
type operation struct {
	path       string
	parameters []map[string]any
	responses  map[string]any // schemas by status
}

func operations(t *testing.T, s schemas) (list []operation) {
	for path, item := range s.file["paths"].(map[string]any) {
		methods := item.(map[string]any)
		require.Equal(t, []string{"get"}, slices.Collect(maps.Keys(methods)))
		get := methods["get"].(map[string]any)
		op := operation{path: path, responses: map[string]any{}}
		for _, p := range get["parameters"].([]any) {
			parameter, err := s.resolve(p)
			require.NoError(t, err)
			op.parameters = append(op.parameters, parameter)
		}
		for status, r := range get["responses"].(map[string]any) {
			response, err := s.resolve(r)
			require.NoError(t, err)
			content := response["content"].(map[string]any)
			require.Len(t, content, 1)
			op.responses[status] = content["application/json"].(map[string]any)["schema"]
		}
		list = append(list, op)
	}
	slices.SortFunc(list, func(a, b operation) int { return strings.Compare(a.path, b.path) })
	return list
}

// targets returns the operation's path with parameters that lead to something, and with ones that do not.
func (op *operation) targets(w *world) (found []string, missing string) {
	fill := func(name, webhook, event string) string {
		return strings.NewReplacer("{name}", name, "{webhookId}", webhook, "{dispatchId}", w.ids["ann "+event],
			"{webhookEventId}", w.ids["ann "+event]+"-1").Replace(op.path)
	}
	for _, event := range []string{"e1", "e2", "e4", "e5", "e7", "e8"} {
		found = append(found, fill("orders", "wh-ann", event))
	}
	if strings.Contains(op.path, "{dispatchId}") {
		found = append(found, fill("", "", "e3"), fill("", "", "e6")) // no attempts
	}
	return found, fill("none", "none", "none")
}

// Every documented status is one that the handler answers with, in the documented form, and it answers with no other.
func TestOpenAPIDescribesEveryAnswer(t *testing.T) {
	t.Parallel()
	s := openAPI(t)
	ops := operations(t, s)
	require.Len(t, ops, 6)
	for _, op := range ops {
		w := newWorld(t)
		allowed := w.handler(t)
		answer := func(h http.Handler, method, target string) answered {
			return do(t, h, httptest.NewRequest(method, target, nil))
		}
		failing := func(err error) http.Handler {
			return w.handler(t, func(o *httpapi.Options) {
				o.Internal = true
				o.Authorize = func(*http.Request, httpapi.Permission) (httpapi.Scope, error) { return httpapi.Scope{}, err }
			})
		}
		found, missing := op.targets(w)
		var answers []answered
		for _, target := range found {
			answers = append(answers, answer(allowed, http.MethodGet, target))
			require.Equal(t, 200, answers[len(answers)-1].status, target)
		}
		for _, p := range op.parameters {
			if p["in"] == "query" {
				name := p["name"].(string)
				for _, value := range []string{"1", "x", "*"} {
					answers = append(answers, answer(allowed, http.MethodGet, found[0]+"?"+name+"="+value))
				}
			}
		}
		answers = append(answers,
			answer(allowed, http.MethodGet, missing),
			answer(allowed, http.MethodGet, found[0]+"?unknown=1"),
			answer(allowed, http.MethodPost, found[0]),
			answer(failing(httpapi.ErrUnauthenticated), http.MethodGet, found[0]),
			answer(failing(httpapi.ErrForbidden), http.MethodGet, found[0]),
			answer(failing(errors.New("no")), http.MethodGet, found[0]),
		)
		for _, method := range []string{"Webhooks", "Delivery", "Stats"} {
			w.store.Fail(storetest.Fault{Method: method})
		}
		answers = append(answers, answer(w.handler(t, func(o *httpapi.Options) { o.Internal = true }), http.MethodGet, found[0]))
		require.Equal(t, 500, answers[len(answers)-1].status)

		seen := map[string]bool{}
		for _, a := range answers {
			status := strconv.Itoa(a.status)
			seen[status] = true
			require.Contains(t, op.responses, status, op.path)
			require.NoError(t, s.check(op.path+" "+status, op.responses[status], a.json), a.text)
		}
		require.Equal(t, slices.Sorted(maps.Keys(op.responses)), slices.Sorted(maps.Keys(seen)), op.path)
	}
}

// The handler names the parameters that it knows when it is sent another one.
var knownParameters = regexp.MustCompile(`is not a parameter here, want ([\w, ]+)`)

func TestOpenAPIHasTheParametersOfTheHandler(t *testing.T) {
	t.Parallel()
	s := openAPI(t)
	w := newWorld(t)
	h := w.handler(t)
	for _, op := range operations(t, s) {
		var path, query []string
		for _, p := range op.parameters {
			if p["in"] == "path" {
				require.Equal(t, true, p["required"])
				path = append(path, "{"+p["name"].(string)+"}")
			} else {
				require.Equal(t, "query", p["in"])
				require.Nil(t, p["required"])
				query = append(query, p["name"].(string))
			}
		}
		require.Equal(t, regexp.MustCompile(`\{\w+\}`).FindAllString(op.path, -1), path)

		found, _ := op.targets(w)
		known := knownParameters.FindStringSubmatch(ask(t, h, found[0]+"?unknown=1").text)
		require.NotNil(t, known)
		want := strings.Join(query, ", ")
		if want == "" {
			want = "none"
		}
		require.Equal(t, want, known[1], op.path)
	}
}

// What a parameter's schema accepts the handler accepts, and what it refuses the handler refuses.
func TestOpenAPIHasTheBoundsOfTheHandler(t *testing.T) {
	t.Parallel()
	s := openAPI(t)
	w := newWorld(t)
	h := w.handler(t)
	texts := []string{"", "true", "false", "True", "NEW", "FAILED", "new", "order.created", "a b", "*", strings.Repeat("a", 128), strings.Repeat("a", 129)}
	for _, n := range []int{-1, 0, 1, 2, 99, 100, 101, 199, 200, 201, 599, 600, 1000, 1001, 100_000, 100_001, 1<<31 - 1, 1 << 31} {
		texts = append(texts, strconv.Itoa(n))
	}
	checked := 0
	for _, op := range operations(t, s) {
		found, _ := op.targets(w)
		for _, p := range op.parameters {
			schema := p["schema"].(map[string]any)
			if p["in"] != "query" || p["name"] == "paginationToken" || schema["format"] != nil {
				continue // judged in the other tests
			}
			for _, text := range texts {
				var value any = text
				if n, err := strconv.Atoi(text); err == nil && schema["type"] == "integer" {
					value = float64(n)
				}
				status := http.StatusOK
				if s.check("", schema, value) != nil {
					status = http.StatusBadRequest
				}
				target := fmt.Sprintf("%s?%s=%s", found[0], p["name"], url.QueryEscape(text))
				require.Equal(t, status, ask(t, h, target).status, target)
				checked++
			}
		}
	}
	require.Greater(t, checked, 200)
}
