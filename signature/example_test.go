package signature_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/signature"
)

// The handler of a receiver: read the body once, within a bound, verify those
// bytes, and only then look at them.
func ExampleVerifier() {
	verifier, err := signature.NewVerifier("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		fmt.Println(err)
		return
	}
	receive := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, "body unreadable or too large", http.StatusBadRequest)
			return
		}
		if err := verifier.Verify(r.Header, body); err != nil {
			slog.DebugContext(r.Context(), "webhook refused", "error", err)
			http.Error(w, "signature refused", http.StatusUnauthorized)
			return
		}
		// Here a real one skips an ID that it has seen and queues the work.
		fmt.Printf("received %s: %s\n", r.Header.Get(signature.HeaderID), body)
		w.WriteHeader(http.StatusNoContent)
	}

	send := func(secret, body string) {
		key, err := signature.ParseKey(secret)
		if err != nil {
			fmt.Println(err)
			return
		}
		now := time.Now().Unix()
		r := httptest.NewRequest(http.MethodPost, "/webhooks", strings.NewReader(body))
		r.Header.Set(signature.HeaderID, "evt_1")
		r.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(now, 10))
		r.Header.Set(signature.HeaderSignature, key.Sign("evt_1", now, []byte(body)))
		w := httptest.NewRecorder()
		receive(w, r)
		fmt.Println(w.Code)
	}
	send("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", `{"type":"invoice.paid"}`)
	send("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", `{"type":"invoice.paid"}`)
	// Output:
	// received evt_1: {"type":"invoice.paid"}
	// 204
	// 401
}

// A sender signs with every live secret, newest first, while one is replaced by
// another. The receiver may know either.
func ExampleKey_AppendSign() {
	var header []byte
	for _, secret := range []string{
		"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	} {
		key, err := signature.ParseKey(secret)
		if err != nil {
			fmt.Println(err)
			return
		}
		if len(header) > 0 {
			header = append(header, ' ')
		}
		header = key.AppendSign(header, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, []byte(`{"test": 2432232314}`))
	}
	for entry := range strings.SplitSeq(string(header), " ") {
		fmt.Println(entry)
	}
	// Output:
	// v1,woH/1mJtZGSMCmpFTxRYbStS24eLLD/oXIYr4PYyZ7g=
	// v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
}

// A clock that is wrong is the usual reason for a good signature to be refused.
func ExampleVerifier_Verify_reasons() {
	verifier, err := signature.NewVerifier("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier.Now = func() time.Time { return time.Unix(1614265330+301, 0) }

	header := http.Header{}
	header.Set("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
	header.Set("webhook-timestamp", "1614265330")
	header.Set("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	err = verifier.Verify(header, []byte(`{"test": 2432232314}`))
	fmt.Println(errors.Is(err, signature.ErrTooOld))
	fmt.Println(err)
	// Output:
	// true
	// signature: timestamp too old: Webhook-Timestamp is 301 s in the past, want at most 300 s
}
