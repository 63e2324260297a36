package views

import "encoding/json"

// How many webhook events a page holds at most, and if nothing else is asked for.
const (
	MaxWebhookEvents     = 200
	DefaultWebhookEvents = 50
)

// WebhookEvent is one finished attempt of a delivery.
type WebhookEvent struct {
	ID              string          `json:"id"`              // <delivery id>-<number of the attempt>
	Kind            string          `json:"kind"`            // the event's type
	Date            Time            `json:"date"`            // when the event happened
	DeliveryFailed  bool            `json:"deliveryFailed"`  // this attempt failed
	DeliveryAttempt int             `json:"deliveryAttempt"` // 1 for the first
	TimestampSent   int64           `json:"timestampSent"`   // as signed: Unix seconds
	Status          string          `json:"status"`          // "200", or a word such as "TIMEOUT" if no answer came
	Error           string          `json:"error,omitzero"`
	RetryOf         string          `json:"retryOf,omitzero"`         // the ID of the attempt before
	NextAttemptDate Time            `json:"nextAttemptDate,omitzero"` // as planned when this one failed
	Data            json.RawMessage `json:"data"`                     // the payload; null if it is not JSON
}

// WebhookEventPage is a page of webhook events.
type WebhookEventPage struct {
	Items         []WebhookEvent `json:"items"`
	NextPageToken string         `json:"nextPageToken,omitzero"` // absent on the last page
}

// IDs of a WebhookEventError: they name the kind of problem.
const (
	WebhookEventInvalid         = "bad_request"
	WebhookEventUnauthenticated = "unauthorized"
	WebhookEventForbidden       = "forbidden"
	WebhookEventNotFound        = "not_found"
	WebhookEventMethod          = "method_not_allowed"
	WebhookEventInternal        = "internal_server_error"
)

// WebhookEventError is the body of every answer that is not 200.
type WebhookEventError struct {
	Error WebhookEventProblem `json:"error"`
}

// WebhookEventProblem says what is wrong.
type WebhookEventProblem struct {
	ID      string `json:"id"`
	Status  int    `json:"status"` // the status code of the answer
	Message string `json:"message"`
}
