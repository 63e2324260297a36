package postrider

import (
	"context"
	"log/slog"
	"time"
)

// NoticeKind is what a Notice tells of.
type NoticeKind uint8

// The kinds of notices. Nothing is told of events in the caller's own transaction, which may yet be undone, of
// duplicates, of events that go to no webhook, and of webhooks that are made or get other settings.
const (
	NoticeEmitted   NoticeKind = iota // an event was stored, with Count deliveries
	NoticeAttempted                   // an attempt was recorded: Attempt
	NoticeDelivered                   // a delivery ended DELIVERED
	NoticeFailed                      // a delivery ended FAILED
	NoticeCanceled                    // Count deliveries were canceled, or will be when the request in flight ends
	NoticeWebhook                     // a webhook was paused, resumed, deleted or disabled, or has trouble: Webhook, Share, Message
	NoticeStore                       // the store fails: Err; or works again: Err is nil
	NoticePruned                      // Count deliveries were deleted: Retention was over
)

var noticeText = []string{"EMITTED", "ATTEMPTED", "DELIVERED", "FAILED", "CANCELED", "WEBHOOK", "STORE", "PRUNED"}

// String returns the kind in upper case, such as ATTEMPTED.
func (k NoticeKind) String() string { return textOf(noticeText, k, "NoticeKind") }

// messageDeleted is the Message of a NoticeWebhook of a webhook that was deleted.
const messageDeleted = "deleted"

// Notice is something that happened. Fields that its kind does not speak of are zero. It is for operators: Err and
// what Attempt holds may say more than tenants should see, and the URL and the headers of Webhook may hold credentials,
// unless a Sealer keeps the headers. Its secrets print as [secret].
type Notice struct {
	Kind       NoticeKind
	Time       time.Time
	Project    string
	EventID    string
	EventType  string
	DeliveryID string
	WebhookID  string
	Attempt    *Attempt // must not be changed
	Webhook    *Webhook // as it is now, or was when it was deleted; must not be changed
	Share      int      // percent of Config.DisableAfter for which the webhook has been failing: 50, 80, or 100 when that disabled it
	Count      int      // deliveries
	Message    string   // what happened, in a few words
	Err        error
}

// notify tells the observer. A panic of it ends here.
func (d *Dispatcher) notify(n Notice) {
	if d.cfg.Observe == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			logPanic(context.Background(), d.log, "Config.Observe", v)
		}
	}()
	n.Time = time.Now()
	d.cfg.Observe(n)
}

// SlogObserver returns a function for Config.Observe that writes a line for each notice; to slog.Default() if log is
// nil. What happens to every event is at debug level, what somebody did at info, what goes wrong at a receiver at warn,
// and what goes wrong here at error. It writes no secret and no URL, and of an answer no more than its code.
func SlogObserver(log *slog.Logger) func(Notice) {
	if log == nil {
		log = slog.Default()
	}
	return func(n Notice) {
		ctx := context.Background()
		level, message := n.line()
		if !log.Enabled(ctx, level) {
			return // before the attributes, which cost more than that
		}
		log.LogAttrs(ctx, level, message, n.attrs()...)
	}
}

// line returns the level and the text of a notice's line.
func (n *Notice) line() (slog.Level, string) {
	switch n.Kind {
	case NoticeEmitted:
		return slog.LevelDebug, "event emitted"
	case NoticeAttempted:
		return slog.LevelDebug, "attempt recorded"
	case NoticeDelivered:
		return slog.LevelDebug, "delivered"
	case NoticeFailed:
		return slog.LevelWarn, "delivery failed"
	case NoticeCanceled:
		return slog.LevelInfo, "deliveries canceled"
	case NoticePruned:
		return slog.LevelInfo, "deliveries pruned"
	case NoticeStore:
		if n.Err == nil {
			return slog.LevelInfo, "store works again"
		}
		return slog.LevelError, "store fails"
	case NoticeWebhook:
		if n.Share > 0 || n.Webhook != nil && n.Webhook.failing() && n.Message != messageDeleted {
			return slog.LevelWarn, "webhook fails"
		}
		return slog.LevelInfo, "webhook changed"
	}
	return slog.LevelInfo, "notice of an unknown kind"
}

// failing reports whether the dispatcher, not its owner, keeps the webhook from getting what is meant for it.
func (w *Webhook) failing() bool {
	return w.State == StateDisabled || w.State == StateEnabled && w.Window == 1
}

// attrs returns what a notice's line says beside its text: what is not zero.
func (n *Notice) attrs() []slog.Attr {
	var attrs []slog.Attr
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	number := func(key string, value int) {
		if value != 0 {
			attrs = append(attrs, slog.Int(key, value))
		}
	}
	text("project", n.Project)
	text("event", n.EventID)
	text("type", n.EventType)
	text("delivery", n.DeliveryID)
	text("webhook", n.WebhookID)
	if a := n.Attempt; a != nil {
		number("attempt", a.Number)
		number("code", a.Code)
		if a.Failed {
			text("class", a.Class.String())
		}
		attrs = append(attrs, slog.Duration("took", a.FinishedAt.Sub(a.StartedAt)))
		if !a.NextAt.IsZero() {
			attrs = append(attrs, slog.Time("next", a.NextAt))
		}
	}
	if w := n.Webhook; w != nil {
		text("name", w.Name)
		text("state", w.State.String())
		text("reason", w.Reason)
	}
	number("share", n.Share)
	number("count", n.Count)
	text("what", n.Message)
	if n.Err != nil && n.Kind == NoticeStore { // that of an attempt may name the URL
		attrs = append(attrs, slog.Any("error", n.Err))
	}
	return attrs
}
