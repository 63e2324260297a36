package memstore

import (
	"cmp"
	"context"
	"fmt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
	"github.com/postrider/postrider/internal/queue"
)

// CreateWebhook stores a new webhook.
func (s *Store) CreateWebhook(ctx context.Context, w postrider.Webhook) error {
	if err := s.lockWrite(ctx); err != nil {
		return err
	}
	defer s.unlockWrite()
	if s.byID[w.ID] != nil {
		return fmt.Errorf("webhook %q: %w", w.ID, postrider.ErrExists)
	}
	if s.byName[nameKey(&w)] != nil {
		return fmt.Errorf("webhook named %q: %w", w.Name, postrider.ErrExists)
	}
	now := s.micros()
	h := &hook{Webhook: clone(w), open: map[uint64]*delivery{}}
	h.Version, h.CreatedAt, h.UpdatedAt = 1, instant(now), instant(now)
	h.place = queue.Hook{No: uint32(len(s.hooks)), ID: w.ID, Source: source{s, h}}
	s.hooks = append(s.hooks, h)
	s.byID[h.ID], s.byName[nameKey(&h.Webhook)] = h, h
	s.board.Add(&h.place, now)
	s.placeLocked(h, now)
	return nil
}

// UpdateWebhook replaces a webhook.
func (s *Store) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	if err := s.lockWrite(ctx); err != nil {
		return err
	}
	defer s.unlockWrite()
	h, err := s.findLocked(w.ID)
	if err != nil {
		return err
	}
	if h.Version != w.Version {
		return fmt.Errorf("webhook %q has the version %d, not %d: %w", w.ID, h.Version, w.Version, postrider.ErrConflict)
	}
	w = clone(w)
	w.Project, w.CreatedAt = h.Project, h.CreatedAt
	if other := s.byName[nameKey(&w)]; other != nil && other != h {
		return fmt.Errorf("webhook named %q: %w", w.Name, postrider.ErrExists)
	}
	now := s.micros()
	delete(s.byName, nameKey(&h.Webhook))
	w.Version, w.UpdatedAt = h.Version+1, instant(now)
	h.Webhook = w
	s.byName[nameKey(&w)] = h
	s.placeLocked(h, now)
	return nil
}

// DeleteWebhook takes a webhook away; its deliveries stay.
func (s *Store) DeleteWebhook(ctx context.Context, id string) error {
	if err := s.lockWrite(ctx); err != nil {
		return err
	}
	defer s.unlockWrite()
	h, err := s.findLocked(id)
	if err != nil {
		return err
	}
	delete(s.byName, nameKey(&h.Webhook))
	h.deleted = true
	s.placeLocked(h, s.micros())
	return nil
}

// Webhook returns a webhook.
func (s *Store) Webhook(ctx context.Context, id string) (postrider.Webhook, error) {
	if err := s.lock(ctx); err != nil {
		return postrider.Webhook{}, err
	}
	defer s.mu.Unlock()
	h, err := s.findLocked(id)
	if err != nil {
		return postrider.Webhook{}, err
	}
	return clone(h.Webhook), nil
}

func (s *Store) findLocked(id string) (*hook, error) {
	if h := s.byID[id]; h != nil && !h.deleted {
		return h, nil
	}
	return nil, fmt.Errorf("webhook %q: %w", id, postrider.ErrNotFound)
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
	if err := s.lock(ctx); err != nil {
		return page, err
	}
	defer s.mu.Unlock()
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	for i := from; i < uint64(len(s.hooks)); i++ {
		h := s.hooks[i]
		if h.deleted || !q.Matches(&h.Webhook) {
			continue
		}
		if len(page.Items) == limit {
			page.Next = cursor.Encode(cursor.Webhooks(q), i)
			break
		}
		page.Items = append(page.Items, clone(h.Webhook))
	}
	return page, nil
}
