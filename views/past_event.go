package views

import "encoding/json"

// MaxPastEvents is the most that a page of past events holds, and how many it holds if nothing else is asked for.
const MaxPastEvents = 100

// PastEvent is one delivery: an event on its way to one webhook. The list of them is a bare array.
type PastEvent struct {
	ID               string `json:"id"` // of the delivery, not the event's
	Source           Source `json:"source"`
	Attempts         int    `json:"attempts"`                   // finished ones
	LastResponseCode int    `json:"lastResponseCode,omitzero"`  // the most recent one received; absent before the first
	LastResponseTime *int64 `json:"lastResponseTime,omitempty"` // how long the last attempt took, in ms; absent before it
	Status           string `json:"status"`                     // NEW, IN_PROCESS, DELIVERED, CANCELED or FAILED
	LastError        string `json:"lastError,omitzero"`         // of the last attempt that failed; absent if none has
	Created          Time   `json:"created"`
	WebhookName      string `json:"webhookName"`
}

// Source is the event of a delivery.
type Source struct {
	ID      string          `json:"id"`
	Project string          `json:"project"`
	Event   string          `json:"event"`             // its type
	Payload json.RawMessage `json:"payload,omitempty"` // absent if it is not JSON
}

// Codes of a PastEventsError.
const (
	PastEventsInvalid         = "invalid_parameters"
	PastEventsUnauthenticated = "unauthenticated"
	PastEventsForbidden       = "forbidden"
	PastEventsNotFound        = "not_found"
	PastEventsMethod          = "method_not_allowed"
	PastEventsInternal        = "internal_error"
)

// PastEventsError is the body of every answer that is not 200.
type PastEventsError struct {
	Message       string         `json:"message"` // for the end user
	ErrorCode     string         `json:"errorCode"`
	InvalidFields []InvalidField `json:"invalidFields"`     // [] if none
	Internal      string         `json:"internal,omitzero"` // for the operator only; absent if empty
}

// InvalidField is what is wrong with one parameter.
type InvalidField struct {
	Name      string `json:"name"`
	Reason    string `json:"reason"`
	ErrorCode string `json:"errorCode"`
}

// MarshalJSON shows no invalid fields as [].
func (e PastEventsError) MarshalJSON() ([]byte, error) {
	type plain PastEventsError
	if e.InvalidFields == nil {
		e.InvalidFields = []InvalidField{}
	}
	return json.Marshal(plain(e))
}
