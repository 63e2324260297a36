package postgres

import (
	"cmp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/postrider/postrider"
)

// gathering is claims of one statement.
type gathering struct {
	claims  []postrider.Claim
	hooks   []int64           // of each claim
	known   map[int64]version // webhooks that the statement was told of
	learned map[int64]version // others
}

// collect reads what leaseSQL returns.
func (g *gathering) collect(rows pgx.Rows) error {
	defer rows.Close()
	var (
		id, event, replayOf, token uid
		hook, took, held, revision int64
		status, code, class        int16
		attempts                   int32
		text, hookBody, eventBody  []byte
		created, due               pgtype.Timestamptz
		test, lane                 bool
	)
	into := []any{&id, &event, &hook, &status, &attempts, &code, &took, &class, &text, &created, &due, &test, &replayOf, &lane, &token,
		&held, &revision, &hookBody, &eventBody}
	events, of := map[uid]*postrider.Event{}, []uid(nil)
	g.learned = map[int64]version{}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if held++; len(g.hooks) > 0 && g.hooks[len(g.hooks)-1] == hook { // with those before it
			held = int64(g.claims[len(g.claims)-1].Held) + 1
		}
		g.claims = append(g.claims, postrider.Claim{
			Token: tokenOf(token, hook, status == 0 && !lane), Held: int(held),
			Delivery: postrider.Delivery{
				ID: textOf(id), ReplayOf: textOf(replayOf), Status: postrider.Status(status), Attempts: int(attempts), LastCode: int(code),
				LastClass: postrider.Class(class), LastError: string(text), LastTook: time.Duration(took) * time.Microsecond,
				CreatedAt: when(created), NextAt: when(due), Test: test, InFlight: true,
			},
		})
		g.hooks, of = append(g.hooks, hook), append(of, event)
		if eventBody != nil {
			events[event] = &postrider.Event{}
			if err := events[event].UnmarshalBinary(eventBody); err != nil {
				return err
			}
		}
		if hookBody != nil && g.learned[hook].hook == nil {
			w := &postrider.Webhook{}
			if err := w.UnmarshalBinary(hookBody); err != nil {
				return err
			}
			g.learned[hook] = version{revision, w}
		}
	}
	n := 0
	for i, c := range g.claims {
		w, e := cmp.Or(g.learned[g.hooks[i]].hook, g.known[g.hooks[i]].hook), events[of[i]]
		if w == nil || e == nil {
			continue // damage: its event is gone; the others must not suffer
		}
		c.Event, c.Webhook = *e, *w
		d := &c.Delivery
		d.EventID, d.Project, d.EventType, d.WebhookID, d.WebhookName, d.Owner = e.ID, e.Project, e.Type, w.ID, w.Name, w.Owner
		g.claims[n], g.hooks[n] = c, g.hooks[i]
		n++
	}
	g.claims, g.hooks = g.claims[:n], g.hooks[:n]
	return rows.Err()
}
