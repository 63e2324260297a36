package postrider_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/views"
)

// tenant is a webhook with its rows.
type tenant struct {
	webhook    postrider.Webhook
	deliveries []string
}

// TestScope: whatever is asked for, nothing outside the scope is ever shown or counted, and what is outside reads like
// what never was.
func TestScope(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		ctx := t.Context()
		s := newShelf(t, open, nil)
		var tenants []tenant
		for _, project := range []string{"", "p1", "p2"} {
			for _, owner := range []string{"", "o1", "o2"} {
				// In each project there is a webhook of the same name; its owner differs.
				name := "w" + owner
				w := s.hook("id-"+project+"-"+owner, inProject(project, owner), func(w *postrider.Webhook) { w.Name, w.URL = name, "http://a.example/" })
				tenants = append(tenants, tenant{webhook: w})
			}
		}
		for i := range tenants {
			w := tenants[i].webhook
			for n := range 4 {
				r, err := s.store.Enqueue(ctx, []postrider.Item{{
					Event: postrider.Event{ID: "e" + w.ID + string(rune('a'+len(tenants[i].deliveries))), Project: w.Project, Type: "x", Time: shelfStart, Payload: []byte(`"` + w.ID + `"`)},
					To:    []string{w.ID},
				}})
				require.NoError(t, err)
				id := r[0].Deliveries[0]
				tenants[i].deliveries = append(tenants[i].deliveries, id)
				if n == 3 {
					continue // without attempts, a list shows it without reading it again
				}
				s.attempt(id, 500, 0, postrider.StatusInProcess)
				s.attempt(id, 200, 0, postrider.StatusDelivered)
			}
		}
		// One webhook is deleted: its rows stay in their scope.
		require.NoError(t, s.DeleteWebhook(ctx, "id-p1-o2"))

		// absent turns the error about one thing into the error about another.
		absent := func(err error, name string) string {
			require.ErrorIs(t, err, postrider.ErrNotFound)
			require.NotErrorIs(t, err, postrider.ErrInvalid)
			return strings.ReplaceAll(err.Error(), name, "NAME")
		}
		for _, scope := range []postrider.Scope{
			{}, {Project: "p1"}, {Project: "p2"}, {Owner: "o1"}, {Owner: "o2"}, {Project: "p1", Owner: "o1"}, {Project: "p1", Owner: "o2"},
			{Project: "nobody"}, {Owner: "nobody"}, {Project: "p1", Owner: "nobody"}, {Project: "nobody", Owner: "o1"},
		} {
			v := s.Within(scope)
			visible := map[string]bool{}
			for _, tn := range tenants {
				w := tn.webhook
				in := (scope.Project == "" || scope.Project == w.Project) && (scope.Owner == "" || scope.Owner == w.Owner)
				deleted := w.ID == "id-p1-o2"

				history, err := v.History(ctx, w.Name, postrider.HistoryQuery{Project: w.Project})
				// A scope's project stands in where none is named.
				stands := w.Project == "" && scope.Project != ""
				switch {
				case stands:
					for _, row := range history {
						require.Equal(t, scope.Project, row.Source.Project)
						require.Equal(t, `"id-`+scope.Project+"-"+w.Owner+`"`, string(row.Source.Payload))
						require.True(t, scope.Owner == "" || scope.Owner == w.Owner)
					}
				case in && !deleted:
					require.NoError(t, err)
					require.ElementsMatch(t, tn.deliveries, idsOf(history, pastID))
				default:
					_, never := v.History(ctx, "never", postrider.HistoryQuery{Project: w.Project})
					require.Equal(t, absent(never, `"never"`), absent(err, `"`+w.Name+`"`))
				}

				list, err := v.Dispatches(ctx, postrider.DispatchQuery{WebhookID: w.ID})
				events, err2 := v.WebhookEvents(ctx, w.ID, postrider.WebhookEventQuery{})
				if in {
					require.NoError(t, err)
					require.NoError(t, err2)
					require.Equal(t, tn.deliveries, idsOf(list.Items, dispatchID))
					require.Equal(t, int64(4), list.Total)
					require.Len(t, events.Items, 6)
				} else {
					_, never := v.Dispatches(ctx, postrider.DispatchQuery{WebhookID: "never"})
					require.Equal(t, absent(never, `"never"`), absent(err, `"`+w.ID+`"`))
					require.Zero(t, list)
					_, never = v.WebhookEvents(ctx, "never", postrider.WebhookEventQuery{})
					require.Equal(t, absent(never, `"never"`), absent(err2, `"`+w.ID+`"`))
					require.Zero(t, events)
				}
				d, err := v.Dispatch(ctx, tn.deliveries[3])
				require.Equal(t, in, err == nil)
				require.Equal(t, in, d.ID != "")
				if in {
					visible[d.ID] = true
				}
				for _, id := range tn.deliveries[:3] {
					d, err := v.Dispatch(ctx, id)
					e, err2 := v.WebhookEvent(ctx, w.ID, id+"-2")
					if in {
						require.NoError(t, err)
						require.NoError(t, err2)
						require.Equal(t, w.Owner, d.UserID)
						require.Equal(t, id+"-1", e.RetryOf)
						visible[id] = true
						continue
					}
					const never = "01937a4c-5f00-7000-8000-000000000001"
					_, none := v.Dispatch(ctx, never)
					require.Equal(t, absent(none, never), absent(err, id))
					_, none = v.WebhookEvent(ctx, w.ID, never+"-2")
					require.Equal(t, absent(none, never), absent(err2, id))
					require.Zero(t, d)
					require.Zero(t, e)
				}
			}
			// The list of everything is what is visible one by one.
			list, err := v.Dispatches(ctx, postrider.DispatchQuery{})
			require.NoError(t, err)
			require.Equal(t, int64(len(visible)), list.Total, "%+v", scope)
			require.Len(t, list.Items, len(visible))
			for _, row := range list.Items {
				require.True(t, visible[row.ID])
			}
		}
	})
}

// TestScopeFollowsTheOwner: what a webhook was goes along when it changes hands.
func TestScopeFollowsTheOwner(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		ctx := t.Context()
		s := newShelf(t, open, nil)
		s.hook("w", inProject("p", "old"))
		id := s.emit("p", "x", `{}`)[0]
		s.attempt(id, 200, 0, postrider.StatusDelivered)
		_, err := s.UpdateWebhook(ctx, "w", func(w *postrider.Webhook) error { w.Owner = "new"; return nil })
		require.NoError(t, err)
		before, after := s.Within(postrider.Scope{Owner: "old"}), s.Within(postrider.Scope{Project: "p", Owner: "new"})

		d, err := after.Dispatch(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "new", d.UserID)
		rows, err := after.History(ctx, "w", postrider.HistoryQuery{})
		require.NoError(t, err)
		require.Len(t, rows, 1)
		_, err = before.Dispatch(ctx, id)
		require.ErrorIs(t, err, postrider.ErrNotFound)
		_, err = before.WebhookEvents(ctx, "w", postrider.WebhookEventQuery{})
		require.ErrorIs(t, err, postrider.ErrNotFound)
		_, err = before.History(ctx, "w", postrider.HistoryQuery{Project: "p"})
		require.ErrorIs(t, err, postrider.ErrNotFound)
		list, err := before.Dispatches(ctx, postrider.DispatchQuery{})
		require.NoError(t, err)
		require.Equal(t, views.DispatchList{Limit: 1000, Items: []views.Dispatch{}}, list)
	})
}

// TestScopeWhileTheOwnerChanges: a webhook that changes hands just after it was looked up takes its rows along.
func TestScopeWhileTheOwnerChanges(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		ctx := t.Context()
		f := &fakeStore{}
		s := newShelf(t, open, func(s postrider.Store) postrider.Store { f.Store = s; return f })
		s.hook("w", inProject("p", "old"))
		s.emit("p", "x", `{}`)
		s.attempt(s.emit("p", "x", `{}`)[0], 200, 0, postrider.StatusDelivered)
		moveTo := func(owner string) {
			_, err := s.UpdateWebhook(ctx, "w", func(w *postrider.Webhook) error { w.Owner = owner; return nil })
			require.NoError(t, err)
		}
		f.deliveries = func(q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			moveTo("new")
			return f.Store.Deliveries(ctx, q)
		}
		f.attempts = func(q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			moveTo("new")
			return f.Store.Attempts(ctx, q)
		}
		v := s.Within(postrider.Scope{Owner: "old"})
		rows, err := v.History(ctx, "w", postrider.HistoryQuery{Project: "p"})
		require.NoError(t, err)
		require.Empty(t, rows)
		moveTo("old")
		list, err := v.Dispatches(ctx, postrider.DispatchQuery{WebhookID: "w"})
		require.NoError(t, err)
		require.Empty(t, list.Items)
		moveTo("old")
		events, err := v.WebhookEvents(ctx, "w", postrider.WebhookEventQuery{})
		require.NoError(t, err)
		require.Empty(t, events.Items)
	})
}
