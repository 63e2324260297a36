package storetest

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

const (
	saysExists  = "ErrExists: the ID is or was in use, or the name is in use within the project."
	saysUnknown = "ErrNotFound: no such webhook, or it is deleted."
	saysUpdate  = "UpdateWebhook replaces the webhook with this ID if its stored Version is w.Version, else ErrConflict; Version goes up by one, as it does with a WebhookChange."
	saysDeleted = "DeleteWebhook takes the webhook away: nothing of it is claimed any more, and its name is free, though its ID is not."
	saysStay    = "Its deliveries stay; Change cancels those that wait."
	saysListed  = "Webhooks returns a page of webhooks in the order of their creation."
)

var webhookCases = []testCase{
	{name: "CreateWebhook/new", run: createNew,
		says: "CreateWebhook stores a new webhook with Version 1, and CreatedAt and UpdatedAt from the store's clock."},
	{name: "CreateWebhook/exact", run: createExact, file: "webhook.go",
		says: "All of it is data: any store can keep it."},
	{name: "CreateWebhook/exists", run: createExists, says: saysExists},
	{name: "UpdateWebhook/version", run: updateVersion, says: saysUpdate},
	{name: "UpdateWebhook/replaces", run: updateReplaces, says: saysUpdate},
	{name: "UpdateWebhook/stays", run: updateStays,
		says: "ID, Project and CreatedAt stay."},
	{name: "UpdateWebhook/exists", run: updateExists,
		says: "ErrExists: the new name is in use within the project."},
	{name: "UpdateWebhook/not-found", run: updateNotFound, says: saysUnknown},
	{name: "DeleteWebhook/away", run: deleteAway, says: saysDeleted},
	{name: "DeleteWebhook/name", run: deleteName, says: saysDeleted},
	{name: "DeleteWebhook/id", run: deleteID, says: saysDeleted},
	{name: "DeleteWebhook/not-found", run: deleteNotFound, says: saysUnknown},
	{name: "DeleteWebhook/untouched", run: deleteUntouched,
		says: "The call does not touch them, however many."},
	{name: "DeleteWebhook/deliveries", run: deleteDeliveries, says: saysStay},
	{name: "Webhook/not-found", run: webhookNotFound,
		says: "Webhook returns the webhook, or ErrNotFound."},
	{name: "Webhooks/order", run: webhooksOrder, says: saysListed},
	{name: "Webhooks/selects", run: webhooksSelect, file: "query.go",
		says: "WebhookQuery selects webhooks, oldest first."},
	{name: "Webhooks/pages", run: webhooksPages, says: saysListed},
}

func updateNotFound(x *suite) {
	w := x.webhook(x.hook("a"))
	other := w
	other.ID = "b"
	x.is("UpdateWebhook of an unknown ID", x.s.UpdateWebhook(x.ctx, other), postrider.ErrNotFound)
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	x.is("UpdateWebhook of a deleted webhook", x.s.UpdateWebhook(x.ctx, w), postrider.ErrNotFound)
}

func deleteNotFound(x *suite) {
	x.hook("a")
	x.is("DeleteWebhook of an unknown ID", x.s.DeleteWebhook(x.ctx, "b"), postrider.ErrNotFound)
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	x.is("a second DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"), postrider.ErrNotFound)
}

// sameWebhook ends the case unless the webhooks are the same in every field.
func (x *suite) sameWebhook(got, want postrider.Webhook) {
	equal(x, "webhook", showWebhook(got), showWebhook(want))
}

// showWebhook returns every field of the webhook as text, secrets included: the suite's are known to all. Lists and
// maps without content are nil or not, as the store likes.
func showWebhook(w postrider.Webhook) string {
	secrets := ""
	for _, s := range w.Secrets {
		secrets += fmt.Sprintf("%s until %s ", s.Reveal(), micros(s.ExpiresAt))
	}
	times := micros(w.NotBefore) + " " + micros(w.FailingSince) + " " + micros(w.CreatedAt) + " " + micros(w.UpdatedAt)
	w.Secrets = nil
	w.NotBefore, w.FailingSince, w.CreatedAt, w.UpdatedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return fmt.Sprintf("%+v secrets %s times %s", w, secrets, times)
}

func micros(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return fmt.Sprint(t.UnixMicro())
}

// fullHook returns a webhook that has every field set, other than hook does.
func fullHook(x *suite) postrider.Webhook {
	secret := func(text string) postrider.Secret {
		s, err := postrider.ParseSecret(text)
		x.ok("ParseSecret", err)
		return s
	}
	old := secret("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	old.ExpiresAt = time.Date(2027, 1, 2, 3, 4, 5, 678000, time.UTC)
	return postrider.Webhook{
		ID: "full", Project: "p", Name: "full", Owner: "Ä. Owner", URL: "https://example.com:8443/a?b=c&d=%20", Method: http.MethodPut,
		Header: http.Header{"X-One": {"1", "2"}, "X-Two": {""}}, Events: []string{"a", "b.*", "*"},
		Secrets: []postrider.Secret{secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), old},
		Schemes: []postrider.Scheme{postrider.SchemeStandard}, Retry: postrider.Schedule{0, time.Second, 366 * 24 * time.Hour},
		Timeout: 7 * time.Second, Success: postrider.Success{Codes: []string{"2xx", "409"}, Header: "X-Ok"}, MaxInFlight: 17,
		RateLimit: postrider.RateLimit{N: 3, Per: time.Minute, Burst: 5}, Ordered: true, BreakAfter: 4, Envelope: true,
		State: postrider.StateDisabled, Reason: "too many failures", NotBefore: time.Date(2030, 1, 2, 3, 4, 5, 678000, time.UTC),
		Window: 3, FailingSince: time.Date(2025, 1, 2, 3, 4, 5, 1000, time.UTC), Failures: 12, Trips: 2,
	}
}

func createNew(x *suite) {
	w := newHook("a")
	w.Version = 7
	x.ok("CreateWebhook", x.s.CreateWebhook(x.ctx, w))
	got := x.webhook("a")
	equal(x, "Webhook.Version", got.Version, 1)
	equal(x, "Webhook.CreatedAt being set", got.CreatedAt.IsZero(), false)
	equal(x, "Webhook.UpdatedAt being set", got.UpdatedAt.IsZero(), false)
	equal(x, "Webhook.URL", got.URL, w.URL)
}

func createExact(x *suite) {
	want := fullHook(x)
	x.ok("CreateWebhook", x.s.CreateWebhook(x.ctx, want))
	got := x.webhook(want.ID)
	want.Version, want.CreatedAt, want.UpdatedAt = got.Version, got.CreatedAt, got.UpdatedAt
	x.sameWebhook(got, want)
	page, err := x.s.Webhooks(x.ctx, postrider.WebhookQuery{})
	x.ok("Webhooks", err)
	equal(x, "webhooks", len(page.Items), 1)
	x.sameWebhook(page.Items[0], want)
}

func createExists(x *suite) {
	x.hook("a")
	x.hook("b")
	same := newHook("a")
	same.Name = "another"
	x.is("CreateWebhook with an ID in use", x.s.CreateWebhook(x.ctx, same), postrider.ErrExists)
	same.Project = "q"
	x.is("CreateWebhook with an ID in use in another project", x.s.CreateWebhook(x.ctx, same), postrider.ErrExists)
	same = newHook("c")
	same.Name = "name-a"
	x.is("CreateWebhook with a name in use", x.s.CreateWebhook(x.ctx, same), postrider.ErrExists)
	_, err := x.s.Webhook(x.ctx, "c")
	x.is("Webhook of one that was refused", err, postrider.ErrNotFound)
	same.Project = "q"
	x.ok("CreateWebhook with a name in use in another project", x.s.CreateWebhook(x.ctx, same))
	equal(x, "the project of the first", x.webhook("a").Project, "p")
}

func updateVersion(x *suite) {
	x.hook("a")
	first := x.webhook("a")
	for i := range 3 {
		w := x.webhook("a")
		equal(x, "Webhook.Version", w.Version, int64(1+i))
		w.Owner = fmt.Sprint("owner", i)
		x.ok("UpdateWebhook", x.s.UpdateWebhook(x.ctx, w))
	}
	for _, version := range []int64{1, 3, 5, 0} {
		w := first
		w.Version, w.Owner = version, "late"
		x.is(fmt.Sprintf("UpdateWebhook of version %d while 4 is stored", version), x.s.UpdateWebhook(x.ctx, w), postrider.ErrConflict)
	}
	w := x.webhook("a")
	equal(x, "Webhook.Version after conflicts", w.Version, 4)
	equal(x, "Webhook.Owner after conflicts", w.Owner, "owner2")
}

func updateReplaces(x *suite) {
	id := x.hook("full")
	old := x.webhook(id)
	want := fullHook(x)
	want.Version = old.Version
	x.ok("UpdateWebhook", x.s.UpdateWebhook(x.ctx, want))
	got := x.webhook(id)
	want.Version, want.CreatedAt, want.UpdatedAt = got.Version, got.CreatedAt, got.UpdatedAt
	x.sameWebhook(got, want)
	bare := newHook(id)
	bare.Version = got.Version
	x.ok("UpdateWebhook", x.s.UpdateWebhook(x.ctx, bare))
	got = x.webhook(id)
	bare.Version, bare.CreatedAt, bare.UpdatedAt = got.Version, got.CreatedAt, got.UpdatedAt
	x.sameWebhook(got, bare)
}

func updateStays(x *suite) {
	x.hook("a")
	old := x.webhook("a")
	w := old
	w.Project, w.CreatedAt = "q", old.CreatedAt.Add(time.Hour)
	x.ok("UpdateWebhook with another Project and CreatedAt", x.s.UpdateWebhook(x.ctx, w))
	got := x.webhook("a")
	equal(x, "Webhook.Project", got.Project, "p")
	equal(x, "Webhook.CreatedAt", micros(got.CreatedAt), micros(old.CreatedAt))
	equal(x, "deliveries of an event of the project it stays in", len(x.enqueue(x.item())[0].Deliveries), 1)
}

func updateExists(x *suite) {
	x.hook("a")
	x.hook("b")
	x.hook("c", func(w *postrider.Webhook) { w.Project = "q" })
	w := x.webhook("b")
	w.Name = "name-a"
	x.is("UpdateWebhook with a name in use", x.s.UpdateWebhook(x.ctx, w), postrider.ErrExists)
	equal(x, "Webhook.Name after ErrExists", x.webhook("b").Name, "name-b")
	w.Name = "name-c"
	x.ok("UpdateWebhook with a name in use in another project", x.s.UpdateWebhook(x.ctx, w))
	w = x.webhook("a")
	w.Name = "name-b"
	x.ok("UpdateWebhook with a name that is free again", x.s.UpdateWebhook(x.ctx, w))
	w = newHook("d")
	w.Name = "name-a"
	x.ok("CreateWebhook with a name that is free again", x.s.CreateWebhook(x.ctx, w))
}

func deleteAway(x *suite) {
	x.hook("a")
	x.hook("b")
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	_, err := x.s.Webhook(x.ctx, "a")
	x.is("Webhook of a deleted one", err, postrider.ErrNotFound)
	page, err := x.s.Webhooks(x.ctx, postrider.WebhookQuery{})
	x.ok("Webhooks", err)
	equal(x, "webhooks listed", len(page.Items), 1)
	w := newHook("a")
	w.Version = 1
	x.is("UpdateWebhook of a deleted one", x.s.UpdateWebhook(x.ctx, w), postrider.ErrNotFound)
}

func deleteName(x *suite) {
	x.hook("a")
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	w := newHook("b")
	w.Name = "name-a"
	x.ok("CreateWebhook with the name of a deleted one", x.s.CreateWebhook(x.ctx, w))
	equal(x, "Webhook.Name", x.webhook("b").Name, "name-a")
}

func deleteID(x *suite) {
	x.hook("a")
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	w := newHook("a")
	x.is("CreateWebhook with the ID of a deleted one", x.s.CreateWebhook(x.ctx, w), postrider.ErrExists)
	w.Name, w.Project = "another", "q"
	x.is("CreateWebhook with the ID of a deleted one in another project", x.s.CreateWebhook(x.ctx, w), postrider.ErrExists)
}

func deleteDeliveries(x *suite) {
	ids := x.send(x.hook("a"), 3)
	c := x.claim(1)
	x.complete(x.delivered(c[0]))
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	list := x.deliveries(postrider.DeliveryQuery{WebhookID: "a"})
	equal(x, "deliveries of a deleted webhook", len(list), 3)
	equal(x, "Delivery.WebhookName of a deleted webhook", list[0].WebhookName, "name-a")
	n, more := x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true})
	equal(x, "n of a Change of what waits for a deleted webhook", n, 2)
	equal(x, "more", more, false)
	for _, id := range ids {
		want := postrider.StatusCanceled
		if id == c[0].Delivery.ID {
			want = postrider.StatusDelivered
		}
		x.status(id, want)
	}
}

func deleteUntouched(x *suite) {
	ids := x.send(x.hook("a"), 3)
	before := x.stats()
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	for _, id := range ids {
		x.status(id, postrider.StatusNew)
	}
	equal(x, "Stats after DeleteWebhook", x.stats(), before)
}

func webhookNotFound(x *suite) {
	x.hook("a")
	equal(x, "Webhook.ID", x.webhook("a").ID, "a")
	for _, id := range []string{"A", "b", "", "name-a"} {
		_, err := x.s.Webhook(x.ctx, id)
		x.is(fmt.Sprintf("Webhook of %q", id), err, postrider.ErrNotFound)
	}
}

// listWebhooks walks through all pages.
func (x *suite) listWebhooks(q postrider.WebhookQuery) string {
	ids := walk(x, webhookPages(x, q), nil)
	return fmt.Sprint(ids)
}

func webhookPages(x *suite, q postrider.WebhookQuery) pages {
	return func(cursor string) ([]string, string, error) {
		q.Cursor = cursor
		page, err := x.s.Webhooks(x.ctx, q)
		return idsOf(page.Items, func(w postrider.Webhook) string { return w.ID }), page.Next, err
	}
}

func webhooksOrder(x *suite) {
	want := []string{"m", "z", "a", "k", "b"}
	for _, id := range want {
		x.hook(id)
	}
	equal(x, "webhooks in the order of their creation", x.listWebhooks(postrider.WebhookQuery{}), fmt.Sprint(want))
	x.update("z", func(w *postrider.Webhook) { w.Name = "y" })
	equal(x, "webhooks after one was renamed", x.listWebhooks(postrider.WebhookQuery{}), fmt.Sprint(want))
}

func webhooksSelect(x *suite) {
	for i, id := range []string{"a", "b", "c", "d"} {
		x.hook(id, func(w *postrider.Webhook) {
			w.Project, w.Owner = []string{"p", "q"}[i%2], []string{"me", "you"}[i/2]
		})
	}
	x.update("d", func(w *postrider.Webhook) { w.Owner = "me" })
	x.hook("e", func(w *postrider.Webhook) { w.Project, w.Owner = "", "" })
	for _, c := range []struct{ project, owner, want string }{
		{"", "", "[a b c d e]"}, {"p", "", "[a c]"}, {"q", "", "[b d]"}, {"", "me", "[a b d]"}, {"q", "me", "[b d]"},
		{"p", "you", "[c]"}, {"nowhere", "", "[]"}, {"", "nobody", "[]"},
	} {
		for _, limit := range []int{0, 1} {
			q := postrider.WebhookQuery{Project: c.project, Owner: c.owner, Limit: limit}
			equal(x, fmt.Sprintf("webhooks of project %q, owner %q", c.project, c.owner), x.listWebhooks(q), c.want)
		}
	}
}

func webhooksPages(x *suite) {
	var want []string
	for i := range 10 {
		want = append(want, x.hook(fmt.Sprint("w", i)))
	}
	for _, limit := range []int{1, 3, 10} {
		equal(x, fmt.Sprintf("webhooks by pages of %d", limit), x.listWebhooks(postrider.WebhookQuery{Limit: limit}), fmt.Sprint(want))
		page, err := x.s.Webhooks(x.ctx, postrider.WebhookQuery{Limit: limit})
		x.ok("Webhooks", err)
		if len(page.Items) > limit {
			x.fail(fmt.Sprintf("at most %d webhooks", limit), "%d", len(page.Items))
		}
	}
	round := 0
	got := walk(x, webhookPages(x, postrider.WebhookQuery{Limit: 2}), func() {
		x.hook(fmt.Sprint("new", round))
		if round == 1 {
			x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "w0"))
			x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "w9"))
		}
		if round++; round > 4 {
			x.update("w8", func(w *postrider.Webhook) { w.Name = fmt.Sprint("n", round) })
		}
	})
	got = slices.DeleteFunc(got, func(id string) bool { return id[0] != 'w' || id == "w9" })
	equal(x, "webhooks while some are made, changed and deleted", fmt.Sprint(got), fmt.Sprint(want[:9]))
}
