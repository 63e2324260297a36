// Package httpapi serves the three documented views over HTTP: who has a client of one of the pages points it here and
// finds the same paths, parameters, defaults and error bodies. It holds routing and parameters only. What a row looks
// like is in package views, which rows there are is in the Dispatcher.
//
//	GET /events/v2/history/webhooks/{name}               past events: one object per delivery
//	GET /v2/webhook-dispatches/{dispatchId}              webhook dispatch: one object per delivery
//	GET /v2/webhook-dispatches
//	GET /v2/webhooks/{webhookId}/dispatches
//	GET /webhooks/{webhookId}/events/{webhookEventId}    webhook event: one object per attempt
//	GET /webhooks/{webhookId}/events
//
// The handler can be mounted under any prefix that is taken off before it, in every router alike:
//
//	mux.Handle("/api/", http.StripPrefix("/api", h))                            // net/http
//	r.Mount("/api", http.StripPrefix("/api", h))                                // chi
//	e.Any("/api/*", echo.WrapHandler(http.StripPrefix("/api", h)))              // echo
//	g.Any("/api/*path", gin.WrapH(http.StripPrefix("/api", h)))                 // gin
//
// docs/openapi.json describes every parameter and answer.
package httpapi

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/postrider/postrider"
)

// Permission is what a caller must have for an endpoint.
type Permission string

// The permissions, one for each view.
const (
	PermissionHistoryRead    Permission = "Webhooks:History:Read"    // past events
	PermissionDispatchesRead Permission = "Webhooks:Dispatches:Read" // webhook dispatches
	PermissionEventsRead     Permission = "Webhooks:Events:Read"     // webhook events
)

// Scope is what a caller may see: rows of a project, of an owner, or of both; the zero Scope is everything. What lies
// outside is answered as if it did not exist.
type Scope = postrider.Scope

// What Options.Authorize can answer. It may wrap them.
var (
	// ErrUnauthenticated: the request does not say who it is from, or proves it badly. It is answered with 401.
	ErrUnauthenticated = errors.New("httpapi: unauthenticated")
	// ErrForbidden: the caller lacks the permission. It is answered with 403.
	ErrForbidden = errors.New("httpapi: forbidden")
)

// Options are the settings of a handler.
type Options struct {
	// Authorize says what the caller of a request may see. It is called once for each request to an endpoint, before
	// anything is read and before parameters are judged, from many goroutines. An error that is neither
	// ErrUnauthenticated nor ErrForbidden is logged and answered with 500; its text is never sent. Required.
	Authorize func(*http.Request, Permission) (Scope, error)
	// Project is the one in which past events look for a webhook of the name in the path. Webhook dispatches and
	// webhook events go by IDs and need none. Default: the project without a name.
	Project string
	// Challenge is the WWW-Authenticate header of a 401. Default: Bearer.
	Challenge string
	// Internal lets errors of past events carry the page's member internal, which tells what went wrong inside. That is
	// for operators: set it only where nobody else can send requests.
	Internal bool
	// Logger is told of every answer with 500, with the ID that the answer shows. slog.Default() if nil.
	Logger *slog.Logger
}

// New returns the handler. It starts nothing and reads nothing. The error is a *postrider.ValidationError with every
// problem of the arguments.
func New(d *postrider.Dispatcher, o Options) (http.Handler, error) {
	var problems []postrider.FieldError
	if d == nil {
		problems = append(problems, postrider.FieldError{
			Name: "Dispatcher", Reason: "is nil, want a dispatcher", Code: postrider.CodeRequired,
		})
	}
	if o.Authorize == nil {
		problems = append(problems, postrider.FieldError{
			Name: "Options.Authorize", Reason: "is nil, want a function that says what a caller may see", Code: postrider.CodeRequired,
		})
	}
	if o.Project != "" && !word(o.Project, maxName, "_-") {
		problems = append(problems, postrider.FieldError{
			Name: "Options.Project", Reason: "is " + quote(o.Project) + ", want 0 to 64 of [a-zA-Z0-9_-]", Code: postrider.CodeFormat,
		})
	}
	if !headerText(o.Challenge) {
		problems = append(problems, postrider.FieldError{
			Name: "Options.Challenge", Reason: "holds a control character, want the text of a header", Code: postrider.CodeFormat,
		})
	}
	if len(problems) > 0 {
		return nil, &postrider.ValidationError{Fields: problems}
	}
	if o.Challenge == "" {
		o.Challenge = "Bearer"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &handler{d: d, o: o}, nil
}
