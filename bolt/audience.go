package bolt

import (
	"slices"

	"github.com/postrider/postrider"
)

// audience is the webhooks of a project, in the order of their creation. It is replaced when one changes or goes, and
// appended to when one is made, so that whoever has one may read it without a lock.
type audience struct {
	hooks []listener
}

type listener struct {
	no      uint32
	webhook *postrider.Webhook
}

// listenLocked adds a webhook to its project's audience.
func (s *Store) listenLocked(h *hook) {
	old := s.audience[h.webhook.Project]
	if old == nil {
		old = &audience{}
	}
	s.audience[h.webhook.Project] = &audience{append(old.hooks, listener{h.no, h.webhook})}
}

// relistenLocked replaces a webhook in its project's audience, or takes it out if it is deleted.
func (s *Store) relistenLocked(h *hook) {
	project := h.webhook.Project
	list := slices.Clone(s.audience[project].hooks)
	i := slices.IndexFunc(list, func(l listener) bool { return l.no == h.no })
	switch {
	case i < 0:
	case h.deleted:
		list = slices.Delete(list, i, i+1)
	default:
		list[i].webhook = h.webhook
	}
	s.audience[project] = &audience{list}
}
