package bolt

import (
	"cmp"
	"context"
	"fmt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
)

func nameKey(w *postrider.Webhook) string { return w.Project + "\x00" + w.Name }

// clone returns a copy of a webhook that shares nothing, with times as the codec keeps them.
func clone(w *postrider.Webhook) *postrider.Webhook {
	b, _ := w.AppendBinary(nil) // never fails
	c := new(postrider.Webhook)
	if err := c.UnmarshalBinary(b); err != nil {
		panic(err) // what was just encoded decodes
	}
	return c
}

// CreateWebhook stores a new webhook.
func (s *Store) CreateWebhook(ctx context.Context, w postrider.Webhook) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	h := &hook{webhook: clone(&w)}
	return s.submit(ctx, &op{
		alone: true,
		apply: func(g *group) error {
			if err := s.nameFree(h.webhook, nil); err != nil {
				return err
			}
			g.state.hooks++
			h.no = g.state.hooks
			h.webhook.Version, h.webhook.CreatedAt, h.webhook.UpdatedAt = 1, instant(g.now), instant(g.now)
			g.put(bHook, hookKey(h.no), encodeHook(false, h.webhook))
			g.put(bStat, hookKey(h.no), h.stat.append(nil))
			return nil
		},
		done: func() {
			s.enrollLocked(h)
			s.indexLocked(h.webhook.Project)
			now := s.micros()
			s.board.Add(&h.place, now)
			s.placeLocked(h, now)
		},
	})
}

// nameFree returns ErrExists if the webhook's ID, or its name in its project, is another's.
func (s *Store) nameFree(w *postrider.Webhook, own *hook) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.byID[w.ID]; h != nil && h != own {
		return fmt.Errorf("webhook %q: %w", w.ID, postrider.ErrExists)
	}
	if h := s.byName[nameKey(w)]; h != nil && h != own {
		return fmt.Errorf("webhook named %q: %w", w.Name, postrider.ErrExists)
	}
	return nil
}

// lookUp returns a webhook that is not deleted.
func (s *Store) lookUp(id string) (*hook, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.byID[id]; h != nil && !h.deleted {
		return h, nil
	}
	return nil, fmt.Errorf("webhook %q: %w", id, postrider.ErrNotFound)
}

// UpdateWebhook replaces a webhook.
func (s *Store) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	updated := clone(&w)
	var h *hook
	var old string
	return s.submit(ctx, &op{
		alone: true,
		apply: func(g *group) (err error) {
			if h, err = s.lookUp(updated.ID); err != nil {
				return err
			}
			if h.webhook.Version != updated.Version {
				return fmt.Errorf("webhook %q has the version %d, not %d: %w", updated.ID, h.webhook.Version, updated.Version, postrider.ErrConflict)
			}
			old = nameKey(h.webhook)
			updated.Project, updated.CreatedAt = h.webhook.Project, h.webhook.CreatedAt
			if err := s.nameFree(updated, h); err != nil {
				return err
			}
			updated.Version++
			updated.UpdatedAt = instant(g.now)
			g.put(bHook, hookKey(h.no), encodeHook(false, updated))
			return nil
		},
		done: func() {
			delete(s.byName, old)
			h.webhook = updated
			s.byName[nameKey(updated)] = h
			s.relistenLocked(h)
			s.placeLocked(h, s.micros())
		},
	})
}

// DeleteWebhook takes a webhook away; its deliveries stay.
func (s *Store) DeleteWebhook(ctx context.Context, id string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	var h *hook
	return s.submit(ctx, &op{
		alone: true,
		apply: func(g *group) (err error) {
			if h, err = s.lookUp(id); err == nil {
				g.put(bHook, hookKey(h.no), encodeHook(true, h.webhook))
			}
			return err
		},
		done: func() {
			delete(s.byName, nameKey(h.webhook))
			h.deleted = true
			s.relistenLocked(h)
			s.placeLocked(h, s.micros())
		},
	})
}

// Webhook returns a webhook.
func (s *Store) Webhook(ctx context.Context, id string) (postrider.Webhook, error) {
	if err := s.enter(ctx); err != nil {
		return postrider.Webhook{}, err
	}
	defer s.life.RUnlock()
	h, err := s.lookUp(id)
	if err != nil {
		return postrider.Webhook{}, err
	}
	return *clone(s.webhook(h)), nil
}

func (s *Store) webhook(h *hook) *postrider.Webhook {
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.webhook
}

// Webhooks returns a page of webhooks.
func (s *Store) Webhooks(ctx context.Context, q postrider.WebhookQuery) (page postrider.Page[postrider.Webhook], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	var from uint64
	if _, err := cursor.Decode(q.Cursor, cursor.Webhooks(q), &from); err != nil {
		return page, err
	}
	if err := s.enter(ctx); err != nil {
		return page, err
	}
	defer s.life.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	for i := from; i < uint64(len(s.hooks)); i++ {
		h := s.hooks[i]
		if h.deleted || !q.Matches(h.webhook) {
			continue
		}
		if len(page.Items) == limit {
			page.Next = cursor.Encode(cursor.Webhooks(q), i)
			break
		}
		page.Items = append(page.Items, *clone(h.webhook))
	}
	return page, nil
}
