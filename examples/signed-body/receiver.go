package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

// tolerance is how far timestampSent may be from the receiver's clock.
const tolerance = 5 * time.Minute

// sign returns sha256= and the HMAC of a body in hex.
func sign(key, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// verify returns the message in a body whose signature is good and whose time is near now.
func verify(key []byte, signature string, body []byte, now time.Time) (m message, err error) {
	// First the signature, over the bytes as they came: what is not signed is not even parsed.
	if !hmac.Equal([]byte(signature), []byte(sign(key, body))) {
		return m, errors.New("the signature is not by our key")
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, err
	}
	if age := now.Sub(time.Unix(m.TimestampSent, 0)); age.Abs() > tolerance {
		return m, fmt.Errorf("it was sent %v ago, want at most %v", age, tolerance)
	}
	return m, nil
}

// receiver is what is usually somebody else's program. It answers 500 to the first good request.
type receiver struct {
	key []byte
	out *log.Logger

	mu   sync.Mutex // guards what follows
	last message    // the one before, zero at first
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "no body", http.StatusBadRequest)
		return
	}
	m, err := verify(rc.key, r.Header.Get(signatureHeader), body, time.Now())
	if err != nil {
		rc.out.Printf("receiver  %v: 401", err)
		http.Error(w, "not a webhook of ours", http.StatusUnauthorized)
		return
	}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	before := rc.last
	rc.last = m
	switch {
	case m.DeliveryAttempt != before.DeliveryAttempt+1 || m.RetryOf != before.ID:
		rc.out.Printf("receiver  attempt %d of %q after attempt %d: 409", m.DeliveryAttempt, m.RetryOf, before.DeliveryAttempt)
		http.Error(w, "out of step", http.StatusConflict)
	case m.DeliveryAttempt == 1:
		rc.out.Printf("receiver  signature and time good, attempt 1, but out of order today: 500")
		http.Error(w, "out of order", http.StatusInternalServerError)
	default:
		rc.out.Printf("receiver  signature and time good, attempt %d, a retry of the one before, %s: 200", m.DeliveryAttempt, m.Data)
	}
}
