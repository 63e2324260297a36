package views

import "encoding/json"

// MaxDispatches is the most that a page of dispatches holds, and how many it holds if nothing else is asked for.
const MaxDispatches = 1000

// The statuses of a Dispatch.
const (
	DispatchActive    = "ACTIVE"    // it has not ended
	DispatchSucceeded = "SUCCEEDED" // delivered
	DispatchFailed    = "FAILED"    // failed or canceled
)

// Dispatch is one delivery: an event on its way to one webhook, with every call that was made.
type Dispatch struct {
	ID        string          `json:"id"`
	UserID    string          `json:"userId"` // the webhook's owner
	WebhookID string          `json:"webhookId"`
	CreatedAt Time            `json:"createdAt"`
	Status    string          `json:"status"`
	EventType string          `json:"eventType"`
	EventData json.RawMessage `json:"eventData"` // the payload; null if it is not JSON
	Calls     []Call          `json:"calls"`     // in the order of attempts; [] before the first has finished
}

// Call is one finished attempt. Its keys are always there, and null where there is no value.
type Call struct {
	StartedAt      Time    `json:"startedAt"`
	FinishedAt     Time    `json:"finishedAt"`
	ErrorMessage   *string `json:"errorMessage"`   // null if it succeeded
	ResponseStatus *int    `json:"responseStatus"` // null if no answer came
	// ResponseBody is what is kept of the answer's body, "" for an empty one, null if no answer came. Bytes that are
	// not UTF-8 show as U+FFFD in JSON.
	ResponseBody *string `json:"responseBody"`
}

// DispatchList is a page of dispatches.
type DispatchList struct {
	Total  int64      `json:"total"` // how many there are on all pages
	Offset int        `json:"offset"`
	Limit  int        `json:"limit"` // as it was applied
	Desc   bool       `json:"desc"`  // newest first
	Count  int        `json:"count"` // of Items
	Items  []Dispatch `json:"items"`
}

// Data is the envelope of a Dispatch and of a DispatchList.
type Data[T Dispatch | DispatchList] struct {
	Data T `json:"data"`
}

// Types of a DispatchError.
const (
	DispatchInvalidInput     = "invalid-input"
	DispatchUnauthenticated  = "unauthenticated"
	DispatchForbidden        = "forbidden"
	DispatchNotFound         = "record-not-found"
	DispatchMethodNotAllowed = "method-not-allowed"
	DispatchInternalError    = "internal-server-error"
)

// DispatchError is the body of every answer that is not 200.
type DispatchError struct {
	Error DispatchProblem `json:"error"`
}

// DispatchProblem says what is wrong.
type DispatchProblem struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}
