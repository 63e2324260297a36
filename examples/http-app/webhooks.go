package main

import (
	"net/http"

	"github.com/postrider/postrider"
)

// webhook is what customers see of a webhook.
type webhook struct {
	ID     string   `json:"id,omitempty"`
	Name   string   `json:"name,omitempty"`
	URL    string   `json:"url"`
	Events []string `json:"events"`
	State  string   `json:"state,omitempty"`
	Secret string   `json:"secret,omitempty"` // only when it has just been created
}

func show(w postrider.Webhook) webhook {
	return webhook{ID: w.ID, Name: w.Name, URL: w.URL, Events: w.Events, State: w.State.String()}
}

// owner returns the customer in the path if the request is from that customer, and refuses it if not. Somebody else's
// webhooks are not found, rather than forbidden: who is a customer is nobody's business.
func owner(w http.ResponseWriter, r *http.Request) (id string, ok bool) {
	id, ok = customer(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "who is it?")
		return "", false
	}
	if id != r.PathValue("id") {
		refuse(w, http.StatusNotFound, "there is none")
		return "", false
	}
	return id, true
}

func (s *shop) createWebhook(w http.ResponseWriter, r *http.Request) {
	id, ok := owner(w, r)
	if !ok {
		return
	}
	var in webhook
	if !read(w, r, &in) {
		return
	}
	if in.ID != "" || in.State != "" || in.Secret != "" {
		refuse(w, http.StatusBadRequest, "want name, url and events, and nothing else")
		return
	}
	made, err := s.d.CreateWebhook(r.Context(), postrider.Webhook{
		Project: id, Owner: id, Name: in.Name, URL: in.URL, Events: in.Events,
	})
	if err != nil {
		fail(w, err)
		return
	}
	out := show(made)
	out.Secret = made.Secrets[0].Reveal() // it was made for this webhook, and is shown this once
	answer(w, http.StatusCreated, out)
}

func (s *shop) listWebhooks(w http.ResponseWriter, r *http.Request) {
	id, ok := owner(w, r)
	if !ok {
		return
	}
	q := postrider.WebhookQuery{Project: id, Owner: id}
	list := []webhook{}
	for {
		page, err := s.d.Webhooks(r.Context(), q)
		if err != nil {
			fail(w, err)
			return
		}
		for _, hook := range page.Items {
			list = append(list, show(hook))
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			answer(w, http.StatusOK, list)
			return
		}
	}
}

func (s *shop) showWebhook(w http.ResponseWriter, r *http.Request) {
	if hook, ok := s.named(w, r); ok {
		answer(w, http.StatusOK, show(hook))
	}
}

func (s *shop) changeWebhook(w http.ResponseWriter, r *http.Request) {
	hook, ok := s.named(w, r)
	if !ok {
		return
	}
	var in webhook
	if !read(w, r, &in) {
		return
	}
	if in.ID != "" || in.Name != "" || in.State != "" || in.Secret != "" {
		refuse(w, http.StatusBadRequest, "want url and events, and nothing else")
		return
	}
	changed, err := s.d.UpdateWebhook(r.Context(), hook.ID, func(hook *postrider.Webhook) error {
		hook.URL, hook.Events = in.URL, in.Events
		return nil
	})
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, show(changed))
}

func (s *shop) deleteWebhook(w http.ResponseWriter, r *http.Request) {
	hook, ok := s.named(w, r)
	if !ok {
		return
	}
	if err := s.d.DeleteWebhook(r.Context(), hook.ID); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// named returns the customer's webhook that the path names. The project is the customer's own, so that there is no
// other to be found.
func (s *shop) named(w http.ResponseWriter, r *http.Request) (postrider.Webhook, bool) {
	id, ok := owner(w, r)
	if !ok {
		return postrider.Webhook{}, false
	}
	hook, err := s.d.WebhookNamed(r.Context(), id, r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return postrider.Webhook{}, false
	}
	return hook, true
}
