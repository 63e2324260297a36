package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"

	"github.com/postrider/postrider"
)

// handler answers requests in this order: is there such a path (404), does it take the method (405), may the caller
// (401, 403, 500), are the parameters right (400), is there such a thing (404). So a caller without the permission
// learns nothing but which paths there are.
type handler struct {
	d *postrider.Dispatcher
	o Options
}

var _ http.Handler = (*handler)(nil)

const methodsAllowed = http.MethodGet + ", " + http.MethodHead

// What is answered before a view is asked.
var (
	errRoute  = fmt.Errorf("httpapi: no such path: %w", postrider.ErrNotFound)
	errMethod = errors.New("httpapi: method not allowed")
)

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route := findRoute(r.URL.EscapedPath())
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	answered := false
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if v == http.ErrAbortHandler || answered {
			panic(v)
		}
		h.refuse(w, r, route.form, &panicError{v, debug.Stack()})
	}()
	body, err := h.answer(r, route)
	var text []byte
	if err == nil {
		text, err = json.Marshal(body)
	}
	answered = true
	if err != nil {
		h.refuse(w, r, route.form, err)
		return
	}
	write(w, r, http.StatusOK, text)
}

// answer returns the body of a 200, or why there is none.
func (h *handler) answer(r *http.Request, route route) (any, error) {
	if route.endpoint == nil {
		return nil, errRoute
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil, errMethod
	}
	scope, err := h.o.Authorize(r, route.permission)
	if err != nil {
		return nil, &authError{err}
	}
	q := readParams(r.URL.RawQuery, route.endpoint.params)
	return route.endpoint.serve(r.Context(), call{h.d.Within(scope), h.o.Project, route.path, q})
}

// refuse answers with the error body of a view.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, form *form, err error) {
	f := failure{status: http.StatusInternalServerError}
	var auth *authError
	var invalid *postrider.ValidationError
	switch {
	case errors.As(err, &auth) && errors.Is(err, ErrUnauthenticated):
		f.status, f.message = http.StatusUnauthorized, "Authentication is required"
		w.Header().Set("WWW-Authenticate", h.o.Challenge)
	case errors.As(err, &auth) && errors.Is(err, ErrForbidden):
		f.status, f.message = http.StatusForbidden, "The permission is missing"
	case errors.As(err, &auth):
	case err == errMethod:
		f.status, f.message = http.StatusMethodNotAllowed, "The method is not allowed here"
		w.Header().Set("Allow", methodsAllowed)
	case err == errRoute:
		f.status, f.message = http.StatusNotFound, "There is nothing at this path"
	case errors.As(err, &invalid):
		f.status, f.message, f.fields = http.StatusBadRequest, "Invalid input", invalid.Fields
	case errors.Is(err, postrider.ErrNotFound):
		f.status, f.message = http.StatusNotFound, form.missing
	}
	if f.status == http.StatusInternalServerError {
		id := failureID()
		f.message = "Something went wrong; the operator finds it under " + id
		h.log(r, id, err)
	}
	if h.o.Internal && auth == nil && err != errMethod && err != errRoute {
		f.internal = err.Error()
	}
	text, err := json.Marshal(form.body(f))
	if err != nil { // impossible: strings and numbers
		text = []byte("{}")
	}
	write(w, r, f.status, text)
}

// log tells the operator of a 500, unless it is only that nobody waits for the answer any more.
func (h *handler) log(r *http.Request, id string, err error) {
	ctx := context.WithoutCancel(r.Context())
	level := slog.LevelError
	if r.Context().Err() != nil && errors.Is(err, r.Context().Err()) {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.String("id", id), slog.String("path", cut(r.URL.Path)), slog.Any("error", err)}
	var p *panicError
	if errors.As(err, &p) {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	h.o.Logger.LogAttrs(ctx, level, "httpapi: a request was answered with 500", attrs...)
}

// write sends an answer, of which a HEAD request gets all but the body.
func write(w http.ResponseWriter, r *http.Request, status int, text []byte) {
	header := w.Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(text) // an error means that nobody reads it any more
	}
}

// failureID returns what an answer and a log entry are matched by.
func failureID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand.Read
	return hex.EncodeToString(id[:])
}

// authError is what Options.Authorize returned. What it wraps decides the status, never the text: an ErrNotFound of its
// own store must not look like ours.
type authError struct{ err error }

func (e *authError) Error() string { return "authorize: " + e.err.Error() }
func (e *authError) Unwrap() error { return e.err }

// panicError is a panic that was recovered.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }
