package storetest

import (
	"github.com/postrider/postrider"
)

const saysHeld = "Held says how many claims of the webhook were held with this one, over all callers."

var heldCases = []testCase{
	{name: "Held/claims", run: heldClaims, says: saysHeld},
	{name: "Held/ends", run: heldEnds, says: saysHeld},
	{name: "Held/webhooks", run: heldWebhooks, says: saysHeld},
	{name: "Held/only", run: heldOnly, says: saysHeld},
}

// helds ends the case unless the claims, in their order, were held with so many.
func (x *suite) helds(when string, claims []postrider.Claim, want ...int) {
	equal(x, "claims "+when, len(claims), len(want))
	for i, c := range claims {
		equal(x, "Claim.Held "+when, c.Held, want[i])
	}
}

func heldClaims(x *suite) {
	x.send(x.hook("a"), 6)
	x.helds("of the first call", x.claim(1), 1)
	x.helds("of a call while 1 is held", x.claim(3), 2, 3, 4)
	x.helds("of a call while 4 are held", x.claim(10), 5, 6)
}

func heldEnds(x *suite) {
	x.send(x.hook("a"), 6)
	claims := x.claim(4)
	x.helds("of the first call", claims, 1, 2, 3, 4)
	x.complete(x.delivered(claims[0]), x.again(claims[3], 0))
	next := x.claim(1)
	x.helds("after 2 of 4 were completed", next, 3)
	x.complete(released(next[0]), x.delivered(claims[1]))
	x.helds("after one more was completed and one released", x.claim(1), 2)
	x.step(lease)
	x.helds("when every lease is over", x.claim(2), 1, 2)
}

func heldWebhooks(x *suite) {
	a, b := x.hook("a", maxInFlight(3)), x.hook("b")
	x.send(a, 5)
	x.send(b, 2)
	of := map[string][]postrider.Claim{}
	for _, c := range x.claim(10) {
		of[c.Webhook.ID] = append(of[c.Webhook.ID], c)
	}
	x.helds("of a webhook, beside those of another", of[a], 1, 2, 3)
	x.helds("of the other", of[b], 1, 2)
	x.complete(x.delivered(of[b][0]))
	x.complete(x.delivered(of[a][0]))
	x.helds("at the edge of MaxInFlight", x.claim(10), 3)
}

func heldOnly(x *suite) {
	ids := x.send(x.hook("a", maxInFlight(1)), 3)
	x.helds("of the first call", x.claim(10), 1)
	x.helds("with Only, past MaxInFlight", x.claim(1, only(ids[2])), 2)
}

func sharedHeld(x *suite) {
	other := x.share()
	x.send(x.hook("a"), 5)
	mine := x.claim(2)
	x.helds("of the first handle", mine, 1, 2)
	x.as(other, func() { x.helds("of another handle, while the first holds 2", x.claim(2), 3, 4) })
	x.complete(x.delivered(mine[0]))
	x.as(other, func() { x.helds("of another handle, when the first holds 1", x.claim(10), 4) })
}
