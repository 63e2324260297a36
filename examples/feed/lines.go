package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/postrider/postrider"
)

const (
	maxLine  = 4 << 20 // bytes; all that is held of the input at a time
	maxBatch = 100     // events stored at once: each batch costs a sync of the disk
)

// emit stores the events of the input, as fast as the disk takes them and as soon as they are there.
func emit(ctx context.Context, d *postrider.Dispatcher, in *lines) error {
	for {
		events, err := in.next()
		if len(events) > 0 {
			if _, err := d.EmitAll(ctx, events); err != nil {
				return fmt.Errorf("lines up to %d: %w", in.number, err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lines reads events from JSON lines.
type lines struct {
	r      *bufio.Reader
	number int // of the last line read
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, maxLine)} }

// next returns up to maxBatch events. It waits for the first one only: a program that writes a line now and then has
// it delivered now. The events that come with an error are good.
func (l *lines) next() ([]postrider.Event, error) {
	var events []postrider.Event
	for len(events) < maxBatch && (len(events) == 0 || l.ready()) {
		text, err := l.r.ReadSlice('\n')
		if err == io.EOF && len(text) == 0 {
			return events, io.EOF
		}
		l.number++
		if errors.Is(err, bufio.ErrBufferFull) {
			return events, fmt.Errorf("line %d: longer than %d bytes", l.number, maxLine)
		}
		if err != nil && err != io.EOF { // the last line may lack its end
			return events, fmt.Errorf("line %d: %w", l.number, err)
		}
		text = bytes.TrimSpace(text)
		if len(text) == 0 {
			continue
		}
		event, err := eventOf(l.number, text)
		if err != nil {
			return events, fmt.Errorf("line %d: %w", l.number, err)
		}
		events = append(events, event)
	}
	return events, nil
}

// ready reports whether a whole line is there already.
func (l *lines) ready() bool {
	there, _ := l.r.Peek(l.r.Buffered()) // never fails: it is buffered
	return bytes.IndexByte(there, '\n') >= 0
}

// eventOf makes the event of a line.
func eventOf(number int, text []byte) (postrider.Event, error) {
	var line struct {
		Type    string          `json:"type"`
		Payload json.RawMessage `json:"payload"` // the very bytes, copied
	}
	if err := json.Unmarshal(text, &line); err != nil {
		return postrider.Event{}, err
	}
	if line.Payload == nil {
		return postrider.Event{}, errors.New(`no "payload"`)
	}
	event := postrider.Event{ID: eventID(number, line.Type, line.Payload), Type: line.Type, Payload: line.Payload}
	return event, event.Validate()
}

// eventID names a line the same way each time it is read, and that is all it takes to go on after a crash: what is
// stored already is a duplicate. The content alone would not do, since two lines may be alike; the number alone would
// take a corrected line for the one that it replaces. IDs that ascend are faster to store.
func eventID(number int, typ string, payload []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s", typ, payload)
	return fmt.Sprintf("%09d-%x", number, h.Sum(nil)[:16])
}
