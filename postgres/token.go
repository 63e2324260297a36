package postgres

import (
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// A claim's token is that of its lease, and says what Complete need not look up then: the number of the webhook, and
// whether the delivery is fresh, which is that it had no attempt so far and is in no lane. That stays so while the claim
// lasts.
const (
	freshMark = '+'
	otherMark = '.'
	leaseSize = 36 // the lease's own part of a token
)

func tokenOf(lease uid, hook int64, fresh bool) string {
	b := make([]byte, leaseSize, leaseSize+1+20)
	mark := byte(otherMark)
	if fresh {
		mark = freshMark
	}
	copy(b, uuid.UUID(lease.Bytes).String())
	return string(strconv.AppendInt(append(b, mark), hook, 10))
}

// parseToken returns what tokenOf was given, ok is false if the text is nothing that it returned.
func parseToken(text string) (lease uid, hook int64, fresh, ok bool) {
	if len(text) <= leaseSize+1 || strings.IndexByte("+.", text[leaseSize]) < 0 {
		return uid{}, 0, false, false
	}
	lease, ok = parseUID(text[:leaseSize])
	hook, err := strconv.ParseInt(text[leaseSize+1:], 10, 64)
	fresh = text[leaseSize] == freshMark
	return lease, hook, fresh, ok && err == nil && hook > 0
}
