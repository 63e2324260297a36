package postgres_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// The attempt of what is delivered at the first lies with the delivery, if it is short, and the others elsewhere: whoever
// asks sees no difference.
func TestAttemptsAreFoundWhereverTheyLie(t *testing.T) {
	t.Parallel()
	s := hooked(t, "a")
	const n = 4
	for i := range n {
		_, err := s.Enqueue(t.Context(), []postrider.Item{event(fmt.Sprint("e", i))})
		require.NoError(t, err)
	}
	claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: n, Lease: time.Hour})
	require.NoError(t, err)
	require.Len(t, claims, n)
	bodies := map[string][]byte{}
	var outcomes []postrider.Outcome
	for i, c := range claims {
		o := delivered(c)
		if i == n-1 {
			o = again(c)
		}
		o.Attempt.Body = bytes.Repeat([]byte{byte('0' + i)}, []int{0, 20, 2000, 20}[i])
		bodies[c.Delivery.ID] = o.Attempt.Body
		outcomes = append(outcomes, o)
	}
	recorded, err := s.Complete(t.Context(), outcomes)
	require.NoError(t, err)
	require.Equal(t, n, recorded, "those of both kinds")
	page, err := s.Attempts(t.Context(), postrider.AttemptQuery{})
	require.NoError(t, err)
	require.Len(t, page.Items, n)
	for _, a := range page.Items {
		require.True(t, bytes.Equal(bodies[a.DeliveryID], a.Body))
		_, list, err := s.Delivery(t.Context(), a.DeliveryID)
		require.NoError(t, err)
		require.Equal(t, []postrider.Attempt{a}, list)
	}
	stats, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.Equal(t, []int64{1, 1, n - 1, n - 1, 1},
		[]int64{stats.New, stats.InProcess, stats.Delivered, stats.AttemptsOK, stats.AttemptsFailed})
}

// A token that no Claim gave is of a claim that is not held.
func TestCompleteTakesNoTokenButThatOfTheClaim(t *testing.T) {
	t.Parallel()
	s := hooked(t, "a", "b")
	_, err := s.Enqueue(t.Context(), []postrider.Item{event("e")})
	require.NoError(t, err)
	claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 2, Lease: time.Hour})
	require.NoError(t, err)
	require.Len(t, claims, 2)
	o := delivered(claims[0])
	for _, token := range []string{
		"", "x", o.Token[:36], o.Token + "0", o.Token + "x", o.Token[:36] + "x1", "x" + o.Token[1:], claims[1].Token,
	} {
		bad := o
		bad.Token = token
		n, err := s.Complete(t.Context(), []postrider.Outcome{bad})
		require.NoError(t, err)
		require.Zero(t, n, token)
	}
	n, err := s.Complete(t.Context(), []postrider.Outcome{o, o})
	require.NoError(t, err)
	require.Equal(t, 1, n)
}
