package signature

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// DefaultMaxBody is how many bytes of a body a [Middleware] reads at most: 1 MiB.
const DefaultMaxBody = 1 << 20

// RequestVerifier verifies one request: nil means genuine. All verifiers of this
// package are RequestVerifiers.
type RequestVerifier interface {
	Verify(header http.Header, body []byte) error
}

var (
	_ RequestVerifier = (*Verifier)(nil)
	_ RequestVerifier = (*StripeVerifier)(nil)
	_ RequestVerifier = (*BodyVerifier)(nil)
)

// MiddlewareOptions are what a Middleware does not need to be told.
type MiddlewareOptions struct {
	// MaxBody is the most bytes of a body; a longer one is refused. The whole body is in
	// memory before it is verified, so this times the requests that come at once is what
	// strangers can make the program hold. Zero means DefaultMaxBody; with a negative one
	// the Middleware refuses everything, with an ErrVerifier.
	MaxBody int64

	// Refused is told why a request did not reach the next handler, before it is answered:
	// an error of this package, an *http.MaxBytesError, or that of reading the body. It may
	// be called by several goroutines at once. Nobody is told if it is nil.
	Refused func(r *http.Request, err error)
}

// Middleware returns a function that puts a handler behind a verifier: the handler is
// called with genuine requests only, with the verified bytes as the body, from the start.
//
// It answers the other requests itself, and never says why a signature was refused, which
// helps those who forge more than those who are honest:
//
//	401  refused by the verifier
//	413  a body longer than MaxBody
//	400  a body that could not be read
//	500  an unusable verifier or MaxBody: the program's own fault
//
// How long a body may take to arrive is the server's business: set its ReadTimeout. The
// handler sees the headers as they came, and which of them are signed depends on the
// scheme. A Content-Encoding is not decoded: signed is what was sent.
func Middleware(v RequestVerifier, o MiddlewareOptions) func(next http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, status, err := admit(w, r, v, o.MaxBody)
			if err != nil {
				if o.Refused != nil {
					o.Refused(r, err)
				}
				http.Error(w, http.StatusText(status), status)
				return
			}
			genuine := r.WithContext(r.Context()) // a copy: a handler leaves the request that it is given alone
			genuine.Body = io.NopCloser(bytes.NewReader(body))
			genuine.ContentLength = int64(len(body))
			genuine.TransferEncoding = nil
			next.ServeHTTP(w, genuine)
		})
	}
}

// admit returns the verified body, or why there is none and the status that says so.
func admit(w http.ResponseWriter, r *http.Request, v RequestVerifier, limit int64) ([]byte, int, error) {
	if v == nil {
		return nil, http.StatusInternalServerError, fmt.Errorf("%w: there is none", ErrVerifier)
	}
	if limit < 0 {
		return nil, http.StatusInternalServerError, fmt.Errorf("%w: MaxBody is %d, want 0 or more", ErrVerifier, limit)
	}
	limit = cmp.Or(limit, DefaultMaxBody)
	if r.ContentLength > limit {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("signature: body: %w", &http.MaxBytesError{Limit: limit})
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("signature: body: %w", err)
		}
		return nil, http.StatusBadRequest, fmt.Errorf("signature: body: %w", err)
	}
	switch err := v.Verify(r.Header, body); {
	case err == nil:
		return body, 0, nil
	case errors.Is(err, ErrVerifier):
		return nil, http.StatusInternalServerError, err
	default:
		return nil, http.StatusUnauthorized, err
	}
}

// Any returns a verifier that accepts what at least one of these accepts: for a sender
// that goes from one scheme to another. It is as strong as the weakest of them, so take
// the old one out once the sender has changed.
//
// All are asked each time. If none accepts, the error is all of theirs, joined. One that is
// unusable makes the whole unusable, and so does having none: an [ErrVerifier].
func Any(verifiers ...RequestVerifier) RequestVerifier {
	return anyOf(slices.Clone(verifiers))
}

type anyOf []RequestVerifier

func (a anyOf) Verify(header http.Header, body []byte) error {
	if len(a) == 0 {
		return fmt.Errorf("%w: Any of none", ErrVerifier)
	}
	accepted := false
	var refused []error
	for i, v := range a {
		if v == nil {
			return fmt.Errorf("%w: number %d is nil", ErrVerifier, i+1)
		}
		err := v.Verify(header, body)
		if errors.Is(err, ErrVerifier) {
			return err
		}
		if err == nil {
			accepted = true
		} else {
			refused = append(refused, err)
		}
	}
	if accepted {
		return nil
	}
	return errors.Join(refused...)
}
