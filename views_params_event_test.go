package postrider_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func TestStatusesSideBySide(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		facts := stock(s, 10)
		for _, f := range facts {
			d, err := s.Dispatch(t.Context(), f.id)
			require.NoError(t, err)
			require.Equal(t, map[postrider.Status]string{
				postrider.StatusNew: "ACTIVE", postrider.StatusInProcess: "ACTIVE", postrider.StatusDelivered: "SUCCEEDED",
				postrider.StatusFailed: "FAILED", postrider.StatusCanceled: "FAILED",
			}[f.status], d.Status)
			require.Len(t, d.Calls, len(f.attempts))
			require.NotNil(t, d.Calls)
			for i, failed := range f.attempts {
				e, err := s.WebhookEvent(t.Context(), "w", fmt.Sprintf("%s-%d", f.id, i+1))
				require.NoError(t, err)
				require.Equal(t, failed, e.DeliveryFailed)
				last := i == len(f.attempts)-1
				planned := failed && !(last && f.status == postrider.StatusFailed)
				require.Equal(t, planned, !e.NextAttemptDate.IsZero())
				require.Equal(t, i > 0, e.RetryOf != "")
			}
		}
	})
}

func TestParametersOfWebhookEvents(t *testing.T) {
	const rows = 170
	type query = postrider.WebhookEventQuery
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		facts := stock(s, rows)
		selected := func(q query) []string {
			ids := []string{}
			limit := q.Limit
			if limit == 0 {
				limit = 50
			}
			for _, f := range slices.Backward(facts) {
				for i, failed := range slices.Backward(f.attempts) {
					if (q.Kind == "" || q.Kind == f.typ) && (q.DeliveryFailed == postrider.ChoiceAny || failed == (q.DeliveryFailed == postrider.ChoiceYes)) && len(ids) < limit {
						ids = append(ids, fmt.Sprintf("%s-%d", f.id, i+1))
					}
				}
			}
			return ids
		}
		for _, c := range []struct {
			name string
			q    query
			bad  []string
			rows int // -1: as many as the plain filter says, which is then not none
		}{
			{"absent", query{}, nil, 50},
			{"limit at the lower bound", query{Limit: 1}, nil, 1},
			{"limit at the upper bound", query{Limit: 200}, nil, 200},
			{"limit below", query{Limit: -1}, []string{"limit"}, 0},
			{"limit above", query{Limit: 201}, []string{"limit"}, 0},
			{"kind", query{Kind: "y.z"}, nil, 50},
			{"kind of none", query{Kind: "y"}, nil, 0},
			{"kind at the upper bound", query{Kind: strings.Repeat("x", 128)}, nil, 0},
			{"kind above", query{Kind: strings.Repeat("x", 129)}, []string{"kind"}, 0},
			{"kind is no pattern", query{Kind: "y.*"}, []string{"kind"}, 0},
			{"kind is not every kind", query{Kind: "*"}, []string{"kind"}, 0},
			{"failed", query{DeliveryFailed: postrider.ChoiceYes, Limit: 200}, nil, -1},
			{"not failed", query{DeliveryFailed: postrider.ChoiceNo, Limit: 200}, nil, -1},
			{"neither", query{DeliveryFailed: 3}, []string{"deliveryFailed"}, 0},
			{"combined", query{Kind: "y.z", DeliveryFailed: postrider.ChoiceNo, Limit: 200}, nil, -1},
			{"token that is none", query{PaginationToken: "?"}, []string{"paginationToken"}, 0},
			{"token that looks like one", query{PaginationToken: "AAAAAAAAAAAAAAA"}, []string{"paginationToken"}, 0},
			{
				"everything at once", query{Kind: "?", DeliveryFailed: 9, Limit: 201, PaginationToken: "?"},
				[]string{"kind", "deliveryFailed", "limit", "paginationToken"}, 0,
			},
			{"limit and token", query{Limit: 201, PaginationToken: "?"}, []string{"limit", "paginationToken"}, 0},
		} {
			got, err := s.WebhookEvents(t.Context(), "w", c.q)
			if c.bad != nil {
				require.Equal(t, c.bad, invalidNames(t, err), c.name)
				require.Zero(t, got, c.name)
				continue
			}
			require.NoError(t, err, c.name)
			want := selected(c.q)
			if c.rows < 0 {
				require.NotEmpty(t, want, c.name)
			} else {
				require.Len(t, want, c.rows, c.name)
			}
			require.Equal(t, want, idsOf(got.Items, eventID), c.name)
			limit := c.q.Limit
			c.q.Limit = 1 << 30
			require.Equal(t, len(selected(c.q)) > len(want), got.NextPageToken != "", c.name)
			if got.NextPageToken == "" {
				continue
			}
			// A token holds for its own query, under any limit, and for no other.
			c.q.Limit, c.q.PaginationToken = max(limit, 1), got.NextPageToken
			_, err = s.WebhookEvents(t.Context(), "w", c.q)
			require.NoError(t, err, c.name)
			c.q.Limit = -1
			_, err = s.WebhookEvents(t.Context(), "w", c.q)
			require.Equal(t, []string{"limit"}, invalidNames(t, err), c.name)
			c.q.Limit = 0
			_, err = s.WebhookEvents(t.Context(), "other", c.q)
			require.Equal(t, []string{"paginationToken"}, invalidNames(t, err), c.name)
			_, err = s.Within(postrider.Scope{Project: "p"}).WebhookEvents(t.Context(), "w", c.q)
			require.Equal(t, []string{"paginationToken"}, invalidNames(t, err), c.name)
			c.q.Kind = "something.else"
			_, err = s.WebhookEvents(t.Context(), "w", c.q)
			require.Equal(t, []string{"paginationToken"}, invalidNames(t, err), c.name)
		}
		for _, id := range []string{"", "absent", "no id at all!", strings.Repeat("w", 1000)} {
			_, err := s.WebhookEvents(t.Context(), id, query{})
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
	})
}

func TestIDsOfAttemptsAreParsedStrictly(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		facts := stock(s, 5)
		id := facts[4].id // three attempts
		for _, good := range []string{id + "-1", id + "-2", id + "-3"} {
			e, err := s.WebhookEvent(t.Context(), "w", good)
			require.NoError(t, err)
			require.Equal(t, good, e.ID)
			_, err = s.WebhookEvent(t.Context(), "other", good) // another webhook's
			require.ErrorIs(t, err, postrider.ErrNotFound)
			_, err = s.WebhookEvent(t.Context(), "", good)
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
		for _, bad := range []string{
			"", "-", "-1", id, id + "-", id + "-0", id + "-4", id + "-01", id + "-+1", id + "--1", id + "- 1", id + "-1 ", " " + id + "-1",
			id + "-1-1", id + "-1.0", id + "-0x1", id + "-1_0", id + "-4294967297", id + "-99999999999999999999", id + "_1",
			strings.ToUpper(id) + "-1", strings.ReplaceAll(id, "-", "") + "-1", "{" + id + "}-1", "urn:uuid:" + id + "-1", id + "-١",
		} {
			_, err := s.WebhookEvent(t.Context(), "w", bad)
			require.ErrorIs(t, err, postrider.ErrNotFound, bad)
		}
		for _, bad := range []string{"", "-", strings.ToUpper(id), strings.ReplaceAll(id, "-", ""), "{" + id + "}", id + " ", id + "-1", strings.Repeat("x", 1000)} {
			_, err := s.Dispatch(t.Context(), bad)
			require.ErrorIs(t, err, postrider.ErrNotFound, bad)
		}
	})
}

// FuzzViewIDs looks for an ID or a token that finds what it should not, or panics.
func FuzzViewIDs(f *testing.F) {
	s := newShelf(f, openMemory, nil)
	facts := stock(s, 5)
	scope := s.Within(postrider.Scope{Project: "p", Owner: "o"})
	page, err := scope.WebhookEvents(context.Background(), "w", postrider.WebhookEventQuery{Limit: 2})
	require.NoError(f, err)
	attempts := map[string]bool{}
	deliveries := map[string]bool{}
	for _, fact := range facts {
		deliveries[fact.id] = true
		for i := range fact.attempts {
			attempts[fmt.Sprintf("%s-%d", fact.id, i+1)] = true
		}
	}
	f.Add("w", facts[4].id+"-3", page.NextPageToken)
	f.Add("w", facts[4].id, "")
	f.Add("other", facts[4].id+"-03", "AAAA")
	f.Fuzz(func(t *testing.T, webhookID, id, token string) {
		ctx := t.Context()
		e, err := scope.WebhookEvent(ctx, webhookID, id)
		if found := webhookID == "w" && attempts[id]; found != (err == nil) || found && e.ID != id {
			t.Fatalf("WebhookEvent(%q, %q) = %+v, %v", webhookID, id, e, err)
		}
		if err != nil {
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
		d, err := scope.Dispatch(ctx, id)
		if deliveries[id] != (err == nil) || err == nil && d.ID != id {
			t.Fatalf("Dispatch(%q) = %+v, %v", id, d, err)
		}
		for _, of := range []string{webhookID, "w"} {
			page, err := scope.WebhookEvents(ctx, of, postrider.WebhookEventQuery{PaginationToken: token})
			switch {
			case of != "w":
				require.ErrorIs(t, err, postrider.ErrNotFound)
			case err != nil:
				require.Equal(t, []string{"paginationToken"}, invalidNames(t, err))
			}
			for _, e := range page.Items {
				require.True(t, attempts[e.ID])
			}
		}
	})
}
