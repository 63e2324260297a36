/*
Package postrider sends webhooks reliably. A program emits events; Postrider stores them, signs and POSTs them to every
webhook that wants them, retries until each is delivered or given up, and answers what became of them. It needs a store
and nothing else: package bolt keeps everything in one file, package memstore in memory, for tests, and a module of its
own, postgres, in a database that many processes share.

# Nouns

An Event is something that happened: a type, a payload, and an ID that makes emitting it twice harmless.

A Webhook is where a receiver wants events: a URL, the patterns of the types it wants, and the secrets that sign what is
sent. It is data, kept in the store.

A Delivery is one event on its way to one webhook. It is NEW until an attempt has finished, IN_PROCESS until it has
ended, and ends DELIVERED, FAILED or CANCELED, for good.

An Attempt is one HTTP call of a delivery that finished, with the answer and what was decided. It never changes.

A Dispatcher does the work. Emit stores events, Run delivers them, and the other methods keep the webhooks and answer
queries. There is one for each Store value.

# Guarantees

Once Emit has returned nil, the event is as safe as its store keeps things (with bolt: synced to disk), and each of its
deliveries is attempted until it has ended. Who is to get an event is settled when it is emitted: a webhook created
later does not get it, and one that is changed gets it under its new settings.

Delivery is at least once. What was in flight when a process was killed, and what had been answered but not recorded, is
sent again. Receivers tell duplicates by the header Webhook-Id, which is the event's ID in every attempt.

An attempt that was cut off by the end of Run is not counted, and made again. So is one for which this machine lacked
the means, such as file descriptors.

The bytes of a payload are sent as they were given, unless Webhook.Envelope or Config.Encode say otherwise, and the
bytes that were signed are those that are sent, with the headers of Standard Webhooks (https://www.standardwebhooks.com).
Package signature verifies them.

A slow or dead receiver delays only its own deliveries. After ten failures in a row its breaker opens, and one request at
a time finds out when it is back. After five days of nothing but failures, or an answer of 410, it is disabled; nothing
that waits for it is lost before Config.Retention is over.

# Caveats

Order is not guaranteed: attempts run side by side, and a retry comes after what was emitted later. Events with the same
OrderKey, and all events of a webhook that is Ordered, go one after another; then one that fails holds up those behind it
until it has ended, which by default may take more than three days.

After an error of Emit that is not ErrInvalid, ErrFull or ErrClosed it is unknown whether the event was stored. Emit it
again with the ID that the receipt names.

An event that no webhook wants is not stored. Emitted again later, it is no duplicate.

Within the caller's own transaction use In. While such a transaction is open, every other method that writes waits for
it: called from within, it waits for itself.

Only public addresses are called, on the ports of the web: receivers in one's own network, and those of tests, must be
named in Config.Network.

What ended longer ago than Config.Retention, 31 days by default, is deleted while Run runs.

Close the store after Run has returned, not before.

# Other words

Three documented interfaces show what is kept here under names of their own, and people who come from them look for
these:

	Past events          Webhook dispatch         Webhook event            here
	past event           dispatch                 -                        Delivery
	-                    call                     webhook event            Attempt
	source               eventType, eventData     kind, data               Event
	-                    userId                   -                        Webhook.Owner
	attempts             (length of calls)        deliveryAttempt (its)    Delivery.Attempts, Attempt.Number
	created              createdAt                -                        Delivery.CreatedAt
	-                    -                        date                     Event.Time
	-                    startedAt                timestampSent            Attempt.StartedAt, Attempt.Timestamp

	NEW                  ACTIVE, calls is []      (none yet)               StatusNew
	IN_PROCESS           ACTIVE                   deliveryFailed true,     StatusInProcess
	                                              nextAttemptDate
	DELIVERED            SUCCEEDED                deliveryFailed false     StatusDelivered
	FAILED               FAILED                   deliveryFailed true      StatusFailed
	CANCELED             FAILED                   (as it was)              StatusCanceled
*/
package postrider
