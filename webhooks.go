package postrider

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxTries is how often a change of a webhook starts anew because somebody else was faster.
const maxTries = 100

// EnsureWebhook makes the webhook of w.Project with w.Name be as w says, and returns it as stored: it creates it, or
// updates it if something differs. It is meant to be called each time a program starts, by several at once too.
//
// Of a webhook that exists, the ID, the secrets if w has none, State and the fields below it stay as they are. A new
// one is made as CreateWebhook does.
func (d *Dispatcher) EnsureWebhook(ctx context.Context, w Webhook) (Webhook, error) {
	for range maxTries {
		old, err := d.WebhookNamed(ctx, w.Project, w.Name)
		if errors.Is(err, ErrNotFound) {
			made, err := d.CreateWebhook(ctx, w)
			if errors.Is(err, ErrExists) {
				// Somebody else made it just now; or w.ID is in use, and then there is still none of the name.
				if _, again := d.WebhookNamed(ctx, w.Project, w.Name); again == nil {
					continue
				}
			}
			return made, err
		}
		if err != nil {
			return Webhook{}, err
		}
		stored, err := d.replaceWebhook(ctx, old, func(next *Webhook) error {
			*next = w
			if w.ID == "" {
				next.ID = old.ID
			}
			if len(w.Secrets) == 0 {
				next.Secrets = old.Secrets
			}
			next.State = old.State
			next.keep(&old)
			return nil
		})
		if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
			continue
		}
		return stored, err
	}
	return Webhook{}, fmt.Errorf("webhook %s: %w %d times in a row", quote(w.Name), ErrConflict, maxTries)
}

// CreateWebhook stores a new webhook and returns it as stored. Without an ID it gets a UUIDv7, without secrets it gets
// one of NewSecret. It may be created paused; the fields below State are set by the dispatcher. ErrExists: the ID is
// or was in use, or the name is in use within the project.
func (d *Dispatcher) CreateWebhook(ctx context.Context, w Webhook) (Webhook, error) {
	if w.ID == "" {
		w.ID = newID()
	}
	if len(w.Secrets) == 0 {
		w.Secrets = []Secret{newSecret(w.Schemes)}
	}
	w.keep(&Webhook{})
	var p problems
	w.check(&p, d.cfg.MaxTimeout, d.guard)
	if w.State == StateDisabled {
		p.add("Webhook.State", CodeRange, "is %s, want ENABLED or PAUSED", w.State)
	}
	if err := p.err(); err != nil {
		return Webhook{}, err
	}
	sealed, err := d.cfg.seal(w)
	if err != nil {
		return Webhook{}, fmt.Errorf("create webhook: %w", err)
	}
	if err := d.store.CreateWebhook(ctx, sealed); err != nil {
		return Webhook{}, fmt.Errorf("create webhook %s: %w", quote(w.Name), err)
	}
	return d.Webhook(ctx, w.ID)
}

// UpdateWebhook changes a webhook and returns it as stored. The function gets a copy of its own and runs outside any
// transaction, and once more each time that somebody else was faster, so it must have no other effect. Its error ends
// the call and is returned. ID, Project and State cannot be changed, and what it does to the fields below State has no
// effect. If it changes nothing, nothing is stored.
func (d *Dispatcher) UpdateWebhook(ctx context.Context, id string, change func(*Webhook) error) (Webhook, error) {
	return d.updateWebhook(ctx, id, func(w *Webhook) error {
		old := *w
		if err := change(w); err != nil {
			return err
		}
		w.keep(&old)
		if w.State != old.State {
			return &ValidationError{Fields: []FieldError{{
				Name: "Webhook.State", Code: CodeRange,
				Reason: fmt.Sprintf("is %s, want %s as it was: use PauseWebhook or ResumeWebhook", w.State, old.State),
			}}}
		}
		return nil
	})
}

// DeleteWebhook deletes a webhook. Nothing more is sent to it; a request in flight goes on, and counts if it succeeds.
// What waits for it is canceled in batches by Run. Its deliveries stay until they are pruned, its name is free at
// once, and its ID is never used again. ErrNotFound: there is none, also at the second call.
func (d *Dispatcher) DeleteWebhook(ctx context.Context, id string) error {
	n := Notice{Kind: NoticeWebhook, WebhookID: id, Message: messageDeleted}
	if d.cfg.Observe != nil {
		if w, err := d.store.Webhook(ctx, id); err == nil { // afterwards it cannot be read
			n.Project, n.Webhook = w.Project, &w
		}
	}
	if err := d.store.DeleteWebhook(ctx, id); err != nil {
		return fmt.Errorf("delete webhook %s: %w", quote(id), err)
	}
	signal(d.deleted)
	d.notify(n)
	return nil
}

// PauseWebhook stops sending to a webhook: what is due waits, and new events still make deliveries for it. A request
// in flight goes on. A webhook that is paused already stays so.
func (d *Dispatcher) PauseWebhook(ctx context.Context, id string) error {
	return d.moveWebhook(ctx, id, "paused", func(w *Webhook) { w.State, w.Reason = StatePaused, "" })
}

// ResumeWebhook lets a paused or disabled webhook have what waits for it, and forgets its failures and any hold.
func (d *Dispatcher) ResumeWebhook(ctx context.Context, id string) error {
	return d.moveWebhook(ctx, id, "resumed", func(w *Webhook) {
		w.State, w.Reason = StateEnabled, ""
		w.NotBefore, w.Window = time.Time{}, 0
		w.FailingSince, w.Failures, w.Trips = time.Time{}, 0, 0
	})
}

// moveWebhook changes the fields that the dispatcher keeps, and tells of it if that changed anything.
func (d *Dispatcher) moveWebhook(ctx context.Context, id, message string, move func(*Webhook)) error {
	var before int64
	w, err := d.updateWebhook(ctx, id, func(w *Webhook) error {
		before = w.Version
		move(w)
		return nil
	})
	if err == nil && w.Version != before && d.cfg.Observe != nil {
		n := Notice{Kind: NoticeWebhook, Project: w.Project, WebhookID: w.ID, Message: message}
		if kept, err := d.cfg.seal(w); err == nil { // as the store keeps it
			n.Webhook = &kept
		}
		d.notify(n)
	}
	return err
}

// maxOverlap is how long a secret may go on after it was replaced; the longer, the longer a leaked one is good.
const (
	standardOverlap = 24 * time.Hour
	maxOverlap      = 366 * 24 * time.Hour
)

// RotateSecret gives a webhook a new secret, which its first scheme takes, and returns it, to be shown once, by Reveal, to
// whoever runs the receiver. The secrets there are sign beside it until the overlap is over, or earlier if they expire
// earlier; 24 h if it is zero, at most 366 days. A receiver that takes several secrets loses nothing if it learns the
// new one in that time; a header with room for one signature, as SchemeGitHub's, has that of the new one from the
// beginning. Expired secrets are dropped. ErrInvalid: the overlap, or more than five would be live.
//
// If SchemeAsymmetric is one of several schemes, private keys and other secrets do not replace each other: those of the
// other kind stay as they are. UpdateWebhook replaces them.
//
// After another error the new secret may be stored; then calling again puts one more before it. EnsureWebhook with
// secrets of its own takes what was rotated away.
func (d *Dispatcher) RotateSecret(ctx context.Context, webhookID string, overlap time.Duration) (Secret, error) {
	var p problems
	if within(&p, "overlap", overlap, 0, maxOverlap); len(p) > 0 {
		return Secret{}, p.err()
	}
	var secret Secret
	_, err := d.updateWebhook(ctx, webhookID, func(w *Webhook) error {
		secret = newSecret(w.Schemes)
		now := time.Now()
		end := now.Add(cmp.Or(overlap, standardOverlap)).UTC().Truncate(time.Microsecond)
		secrets := []Secret{secret}
		for _, s := range w.Secrets {
			if same := s.private() == secret.private(); same && s.Expired(now) {
				continue
			} else if same && (s.ExpiresAt.IsZero() || s.ExpiresAt.After(end)) {
				s.ExpiresAt = end
			}
			secrets = append(secrets, s)
		}
		w.Secrets = secrets
		return nil
	})
	if err != nil {
		return Secret{}, err
	}
	return secret, nil
}

// Webhook returns the webhook with this ID, or ErrNotFound. What it returns is the caller's own.
func (d *Dispatcher) Webhook(ctx context.Context, id string) (Webhook, error) {
	w, err := d.store.Webhook(ctx, id)
	if err != nil {
		return Webhook{}, fmt.Errorf("webhook %s: %w", quote(id), err)
	}
	return d.cfg.open(w.clone())
}

// WebhookNamed returns the webhook with this name in the project, or ErrNotFound.
func (d *Dispatcher) WebhookNamed(ctx context.Context, project, name string) (Webhook, error) {
	if name == "" {
		return Webhook{}, fmt.Errorf("webhook without a name: %w", ErrNotFound)
	}
	for page, err := range d.webhookPages(ctx, WebhookQuery{Project: project, Name: name}) {
		if err != nil {
			return Webhook{}, err
		}
		for i := range page {
			// The query's empty project stands for every project.
			if page[i].Project == project && page[i].Name == name {
				return d.cfg.open(page[i].clone())
			}
		}
	}
	return Webhook{}, fmt.Errorf("webhook named %s: %w", quote(name), ErrNotFound)
}

// Webhooks returns a page of the webhooks that the query selects, oldest first.
func (d *Dispatcher) Webhooks(ctx context.Context, q WebhookQuery) (Page[Webhook], error) {
	if err := q.Validate(); err != nil {
		return Page[Webhook]{}, err
	}
	page, err := d.store.Webhooks(ctx, q)
	if err != nil {
		return Page[Webhook]{}, fmt.Errorf("webhooks: %w", err)
	}
	items := make([]Webhook, len(page.Items))
	for i := range page.Items {
		if items[i], err = d.cfg.open(page.Items[i].clone()); err != nil {
			return Page[Webhook]{}, err
		}
	}
	page.Items = items
	return page, nil
}

// webhookPages walks all pages of a query, of webhooks as the store keeps them: one that cannot be opened is no trouble
// to those who ask for others.
func (d *Dispatcher) webhookPages(ctx context.Context, q WebhookQuery) func(func([]Webhook, error) bool) {
	return func(yield func([]Webhook, error) bool) {
		for {
			page, err := d.store.Webhooks(ctx, q)
			if err != nil {
				err = fmt.Errorf("webhooks: %w", err)
			}
			if !yield(page.Items, err) || err != nil || page.Next == "" {
				return
			}
			q.Cursor = page.Next
		}
	}
}

// updateWebhook changes a webhook, State included, and starts again when somebody else was faster.
func (d *Dispatcher) updateWebhook(ctx context.Context, id string, change func(*Webhook) error) (Webhook, error) {
	for range maxTries {
		old, err := d.Webhook(ctx, id)
		if err != nil {
			return Webhook{}, err
		}
		stored, err := d.replaceWebhook(ctx, old, change)
		if errors.Is(err, ErrConflict) {
			continue
		}
		return stored, err
	}
	return Webhook{}, fmt.Errorf("webhook %s: %w %d times in a row", quote(id), ErrConflict, maxTries)
}

// replaceWebhook stores what change makes of old, unless that is the same, and returns what is stored then.
func (d *Dispatcher) replaceWebhook(ctx context.Context, old Webhook, change func(*Webhook) error) (Webhook, error) {
	next := old.clone()
	if err := change(&next); err != nil {
		return Webhook{}, err
	}
	if next.equal(&old) {
		return old, nil
	}
	var p problems
	next.check(&p, d.cfg.MaxTimeout, d.guard)
	if next.ID != old.ID {
		p.add("Webhook.ID", CodeRange, "is %s, want %s as it was: it never changes", quote(next.ID), quote(old.ID))
	}
	if next.Project != old.Project {
		p.add("Webhook.Project", CodeRange, "is %s, want %s as it was: it never changes", quote(next.Project), quote(old.Project))
	}
	if err := p.err(); err != nil {
		return Webhook{}, err
	}
	sealed, err := d.cfg.seal(next)
	if err != nil {
		return Webhook{}, fmt.Errorf("update webhook: %w", err)
	}
	if err := d.store.UpdateWebhook(ctx, sealed); err != nil {
		return Webhook{}, fmt.Errorf("update webhook %s: %w", quote(next.Name), err)
	}
	if next.RateLimit != old.RateLimit && d.running.Load() {
		d.rates.note(&next)
	}
	return d.Webhook(ctx, next.ID)
}

// keep takes the fields that only the dispatcher sets from another webhook.
func (w *Webhook) keep(from *Webhook) {
	w.Reason, w.NotBefore, w.Window = from.Reason, from.NotBefore, from.Window
	w.FailingSince, w.Failures, w.Trips = from.FailingSince, from.Failures, from.Trips
	w.Version, w.CreatedAt, w.UpdatedAt = from.Version, from.CreatedAt, from.UpdatedAt
}

// clone returns a copy that shares nothing with w.
func (w Webhook) clone() Webhook {
	w.Header = w.Header.Clone()
	w.Events = slices.Clone(w.Events)
	w.Secrets = slices.Clone(w.Secrets)
	w.Schemes = slices.Clone(w.Schemes)
	w.Retry = slices.Clone(w.Retry)
	w.Success.Codes = slices.Clone(w.Success.Codes)
	return w
}

// equal reports whether the two would be stored alike.
func (w *Webhook) equal(v *Webhook) bool {
	a, _ := w.AppendBinary(nil) // never fails
	b, _ := v.AppendBinary(nil)
	return bytes.Equal(a, b)
}
