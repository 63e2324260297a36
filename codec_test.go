package postrider_test

import (
	"bytes"
	"encoding"
	"encoding/hex"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func fullEvent() postrider.Event {
	return postrider.Event{
		ID: "id", Project: "p", Type: "t", Time: time.Date(2026, 3, 29, 1, 2, 3, 456_000, time.UTC), Payload: []byte("{\"a\": 1}\n"),
		ContentType: "text/plain", Metadata: map[string]string{"b": "2", "a": "", "ü": "\x01"}, OrderKey: "k",
	}
}

func fullAttempt() postrider.Attempt {
	at := time.Date(2026, 3, 29, 1, 2, 3, 456_000, time.UTC)
	return postrider.Attempt{
		Number: 3, StartedAt: at, FinishedAt: at.Add(1234567 * time.Microsecond), Timestamp: at.Unix(), Failed: true, Code: 503,
		Class: postrider.ClassStatus, Error: "no", Body: []byte("busy"), Truncated: true, NextAt: at.Add(time.Hour),
	}
}

func fullWebhook(t testing.TB) postrider.Webhook {
	secret, err := postrider.ParseSecret(testSecret)
	require.NoError(t, err)
	at := time.Date(2026, 3, 29, 1, 2, 3, 456_000, time.UTC)
	old := secret
	old.ExpiresAt = at
	return postrider.Webhook{
		ID: "id", Project: "p", Name: "n", Owner: "o", URL: "https://a.example/?x", Method: "PUT",
		Header: http.Header{"X-A": {"1", "2"}, "X-B": {""}}, Events: []string{"a-*", "b"}, Secrets: []postrider.Secret{secret, old},
		Schemes: []postrider.Scheme{postrider.SchemeStandard}, Retry: postrider.Schedule{time.Second, 0, time.Hour}, Timeout: time.Minute,
		Success: postrider.Success{Codes: []string{"2xx"}, Header: "X-Ok"}, MaxInFlight: 4,
		RateLimit: postrider.RateLimit{N: 1, Per: time.Second, Burst: 2}, Ordered: true, BreakAfter: 3, Envelope: true,
		State: postrider.StateDisabled, Reason: "gone",
		NotBefore: at, Window: 2, FailingSince: at, Failures: 5, Trips: 6, Version: 7, CreatedAt: at, UpdatedAt: at.Add(time.Hour),
	}
}

// decoded is what a record decodes to.
type decoded interface {
	encoding.BinaryUnmarshaler
	encoding.BinaryAppender
}

func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	event, attempt, webhook := fullEvent(), fullAttempt(), fullWebhook(t)
	for _, c := range []struct{ in, out decoded }{
		{&event, &postrider.Event{}}, {&postrider.Event{}, &postrider.Event{ID: "old"}},
		{&attempt, &postrider.Attempt{}}, {&postrider.Attempt{}, &postrider.Attempt{Number: 9}},
		{&webhook, &postrider.Webhook{}}, {&postrider.Webhook{}, &postrider.Webhook{ID: "old"}},
	} {
		record, err := c.in.AppendBinary([]byte("before"))
		require.NoError(t, err)
		require.Equal(t, "before", string(record[:6]))
		record = record[6:]
		kept := bytes.Clone(record)
		require.NoError(t, c.out.UnmarshalBinary(record))
		require.Equal(t, c.in, c.out)
		clear(record)
		require.Equal(t, c.in, c.out, "it keeps nothing of the record")

		// A record that is cut short or too long does not decode, or not to the same.
		require.Error(t, c.out.UnmarshalBinary(nil))
		require.Error(t, c.out.UnmarshalBinary(kept[:1]))
		require.Error(t, c.out.UnmarshalBinary(append([]byte{255}, kept[1:]...)), "an unknown version")
		for n := range kept {
			if c.out.UnmarshalBinary(kept[:n]) == nil {
				require.NotEqual(t, c.in, c.out)
			}
		}
	}
}

// A field that is zero in these would be in no round trip.
// TestRecordsOfEveryVersionAreRead decodes what each version of the codec has written. The files are never made anew: a
// change of a record is a new version, with a file of its own.
func TestRecordsOfEveryVersionAreRead(t *testing.T) {
	t.Parallel()
	event, attempt, webhook := fullEvent(), fullAttempt(), fullWebhook(t)
	want := map[string]decoded{
		"event": &event, "attempt": &attempt, "webhook": &webhook,
		"empty-event": &postrider.Event{}, "empty-attempt": &postrider.Attempt{}, "empty-webhook": &postrider.Webhook{},
	}
	text, err := os.ReadFile("testdata/codec1.txt")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		name, record, _ := strings.Cut(strings.TrimSpace(line), " ")
		data, err := hex.DecodeString(record)
		require.NoError(t, err)
		require.Contains(t, want, name)
		got := reflect.New(reflect.TypeOf(want[name]).Elem()).Interface().(decoded)
		require.NoError(t, got.UnmarshalBinary(data), name)
		require.Equal(t, want[name], got)
		again, err := got.AppendBinary(nil)
		require.NoError(t, err)
		require.Equal(t, data, again, "%s is no longer written as version 1: %x", name, again)
		delete(want, name)
	}
	require.Empty(t, want)
}

func TestRoundTripsCoverEveryField(t *testing.T) {
	t.Parallel()
	attempt := fullAttempt()
	attempt.DeliveryID, attempt.WebhookID = "not", "encoded"
	for _, v := range []any{fullEvent(), attempt, fullWebhook(t)} {
		for i, v := 0, reflect.ValueOf(v); i < v.NumField(); i++ {
			require.False(t, v.Field(i).IsZero(), "%s.%s", v.Type(), v.Type().Field(i).Name)
		}
	}
}

func TestAttemptKeepsItsIDsWhenDecoded(t *testing.T) {
	t.Parallel()
	in := fullAttempt()
	record, err := in.AppendBinary(nil)
	require.NoError(t, err)
	out := postrider.Attempt{DeliveryID: "d", WebhookID: "w"}
	require.NoError(t, out.UnmarshalBinary(record))
	in.DeliveryID, in.WebhookID = "d", "w"
	require.Equal(t, in, out)
}

// fuzz checks that any record decodes or is refused, and that what it decodes to is kept by another round.
func fuzz[T any, P interface {
	*T
	decoded
}](f *testing.F, seeds ...P) {
	for _, seed := range seeds {
		record, err := seed.AppendBinary(nil)
		require.NoError(f, err)
		f.Add(record)
		f.Add(record[:len(record)/2])
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, record []byte) {
		one, two := P(new(T)), P(new(T))
		if one.UnmarshalBinary(record) != nil {
			return
		}
		again, err := one.AppendBinary(nil)
		require.NoError(t, err)
		require.NoError(t, two.UnmarshalBinary(again))
		require.Equal(t, one, two)
	})
}

func FuzzEvent(f *testing.F) {
	e := fullEvent()
	fuzz(f, &postrider.Event{}, &e)
}

func FuzzAttempt(f *testing.F) {
	a := fullAttempt()
	fuzz(f, &postrider.Attempt{}, &a)
}

func FuzzWebhook(f *testing.F) {
	w := fullWebhook(f)
	fuzz(f, &postrider.Webhook{}, &w)
}
