package bolt

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/postrider/postrider"
)

// checkReplay makes the value of a replay from the record of the event. The record is copied: the event may be pruned
// before its replay has ended.
func (p *post) checkReplay(g *group, l *letter, known []byte) error {
	r, err := decodeRecord(g.get(bLog, known))
	if err != nil {
		return err
	}
	l.cached = &cached{size: len(r.event) + cachedSize}
	if err := l.cached.event.UnmarshalBinary(r.event); err != nil {
		return err
	}
	origin, err := uuid.Parse(l.replayOf)
	if err != nil {
		return fmt.Errorf("delivery %q: %w", l.replayOf, postrider.ErrNotFound)
	}
	if l.to == nil {
		p.retune(l)
		l.match(l.cached.event.Type)
	}
	if len(l.targets) == 0 {
		return nil
	}
	if l.run != nil {
		if err := p.once(g, l); err != nil || len(l.targets) == 0 {
			return err
		}
	}
	l.origin, l.typ = origin[:], r.typ
	l.value = r.event // the head is written into a copy
	l.seq = 1
	return nil
}

// runOf returns what a Run is stored as, nil for none.
func runOf(text string) []byte {
	if text == "" {
		return nil
	}
	u, err := uuid.Parse(text)
	if err != nil || u.String() != text {
		u = uuid.NewSHA1(uuid.Nil, []byte(text))
	}
	return u[:]
}

// once leaves out of a replay the webhooks for which its run has made one of the event already. If none is left it is a
// duplicate.
func (p *post) once(g *group, l *letter) error {
	key := string(l.key) + "\x00" + string(l.run)
	made := p.runs[key]
	prefix := append(slices.Clone(l.key), 0)
	c := g.bucket(bAgain).Cursor()
	for k, run := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, run = c.Next() {
		if !bytes.Equal(run, l.run) {
			continue
		}
		r, err := decodeRecord(g.get(bLog, k[len(prefix):]))
		if err != nil {
			return err
		}
		for i := range r.len() {
			made = append(made, r.target(i))
		}
	}
	l.targets = slices.DeleteFunc(l.targets, func(to target) bool { return slices.Contains(made, to) })
	if len(l.targets) == 0 {
		l.flags |= duplicate
		return nil
	}
	if p.runs == nil {
		p.runs = map[string][]target{}
	}
	p.runs[key] = append(made, l.targets...)
	return nil
}
