package postgres

import (
	"github.com/postrider/postrider"
)

// maxKnown is how many webhooks a store remembers at most before it forgets all.
const maxKnown = 10_000

// version is a webhook as it was at a revision of its row. It is never changed; a Claim shares it.
type version struct {
	revision int64
	hook     *postrider.Webhook
}

// known returns what this store knows of webhooks, so that a Claim need not be told it again. Of one that it does not know
// the revision is -1, which none has.
func (s *Store) known(nos []int64) map[int64]version {
	list := make(map[int64]version, len(nos))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, no := range nos {
		v, ok := s.versions[no]
		if !ok {
			v.revision = -1
		}
		list[no] = v
	}
	return list
}

// learn remembers webhooks.
func (s *Store) learn(list map[int64]version) {
	if len(list) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.versions == nil || len(s.versions) >= maxKnown {
		s.versions = map[int64]version{}
	}
	for no, v := range list {
		if old := s.versions[no]; old.hook == nil || old.revision < v.revision { // another call may have seen it later
			s.versions[no] = v
		}
	}
}
