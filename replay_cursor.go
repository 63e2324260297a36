package postrider

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"

	"github.com/google/uuid"
)

// hash returns what binds a cursor to its request.
func (r *ReplayRequest) hash() string {
	q := r.Query
	q.From, q.To = q.From.UTC(), q.To.UTC()
	b, err := json.Marshal([]any{q, r.To, r.Missing, r.DryRun})
	if err != nil {
		panic(err) // the query is valid, and then it is plain data
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// replayCursor is where a replay is. As text it is JSON in base64.
type replayCursor struct {
	Version int    `json:"v"`
	Request string `json:"request"`        // hash of the request
	Run     string `json:"run"`            // Item.Run: what it has made is not made again
	Last    string `json:"last"`           // the delivery at which the walk ends
	Until   int64  `json:"until"`          // its creation, in microseconds
	Page    string `json:"page,omitempty"` // of the store's walk
}

func (c *replayCursor) encode() string {
	if c.Run == "" {
		return ""
	}
	b, _ := json.Marshal(c) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// decode reports whether the text is a cursor.
func (c *replayCursor) decode(text string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || json.Unmarshal(b, c) != nil || c.Version != 1 {
		return false
	}
	_, err = uuid.Parse(c.Run)
	return err == nil
}
