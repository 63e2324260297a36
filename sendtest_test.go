package postrider_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/signature"
)

// tests returns the deliveries of test events, oldest first.
func (b *bench) tests() (list []postrider.Delivery) {
	b.t.Helper()
	for v, err := range b.All(b.t.Context(), postrider.DeliveryQuery{Test: postrider.ChoiceYes, Ascending: true}) {
		require.NoError(b.t, err)
		list = append(list, v)
	}
	return list
}

func TestSendTestWhateverTheStateOfTheWebhook(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		for _, c := range []struct {
			name string
			code int
			set  func(*testing.T, *bench)
		}{
			{"enabled", 200, func(*testing.T, *bench) {}},
			{"paused", 200, func(t *testing.T, b *bench) { require.NoError(t, b.PauseWebhook(t.Context(), "a")) }},
			{"disabled", 410, func(_ *testing.T, b *bench) {
				b.emit("e", "a")
				b.runFor(time.Second)
			}},
			{"held back", 503, func(_ *testing.T, b *bench) {
				b.emit("e", "a")
				b.runFor(time.Second)
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, open(t), postrider.Config{}, func(ctx context.Context, _ postrider.Request) (postrider.Response, error) {
						r := after(c.code, "60")
						r.Body = []byte("hi")
						return r, sleep(ctx, 3*time.Second)
					})
					b.hook("a", only) // its patterns do not match TEST
					c.set(t, b)
					was, err := b.Webhook(t.Context(), "a")
					require.NoError(t, err)
					begun := time.Now().UTC()

					a, err := b.SendTest(t.Context(), "a")
					require.NoError(t, err)
					require.Equal(t, 3*time.Second, time.Since(begun))
					require.Equal(t, c.code != 200, a.Failed)
					require.Equal(t, c.code, a.Code)
					require.Equal(t, "hi", string(a.Body))
					require.Equal(t, []time.Time{begun, begun.Add(3 * time.Second), {}}, []time.Time{a.StartedAt, a.FinishedAt, a.NextAt})

					v, attempts := b.delivery(a.DeliveryID)
					require.Equal(t, []postrider.Attempt{a}, attempts)
					require.True(t, v.Test)
					require.Equal(t, "TEST", v.EventType)
					require.Equal(t, c.code == 200, v.Status == postrider.StatusDelivered)
					require.Equal(t, c.code != 200, v.Status == postrider.StatusFailed)
					is, err := b.Webhook(t.Context(), "a")
					require.NoError(t, err)
					require.Equal(t, was, is, "it does not bear on the webhook's health")
				})
			})
		}
	})
}

// first is a store that lets Run claim a test delivery before SendTest does.
type first struct{ postrider.Store }

func (s first) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	if r.Only != "" {
		_ = sleep(ctx, time.Millisecond)
	}
	return s.Store.Claim(ctx, r)
}

func TestSendTestBesideRun(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		t.Run("one attempt whoever is first", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, open(t), postrider.Config{}, answers(time.Second, 500))
				b.hook("a")
				stop := b.run()
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						a, err := b.SendTest(t.Context(), "a")
						require.NoError(t, err)
						require.Equal(t, 1, a.Number)
						require.Equal(t, 500, a.Code)
					})
				}
				wg.Wait()
				time.Sleep(time.Hour)
				require.NoError(t, stop())
				require.Len(t, b.times(), 20)
				for _, v := range b.tests() {
					require.Equal(t, postrider.StatusFailed, v.Status)
					require.Equal(t, 1, v.Attempts)
				}
			})
		})
		t.Run("Run is first", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, first{open(t)}, postrider.Config{}, answers(time.Second, 500))
				b.hook("a")
				stop := b.run()
				begun := time.Now()
				a, err := b.SendTest(t.Context(), "a")
				require.NoError(t, err)
				require.Equal(t, 500, a.Code)
				require.Equal(t, begun.Add(time.Second).UTC(), a.FinishedAt)
				require.Less(t, time.Since(begun), 3*time.Second)
				require.NoError(t, stop())
				require.Len(t, b.times(), 1)
			})
		})
		t.Run("Run is first and gives it back", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				b := newBench(t, first{open(t)}, postrider.Config{Drain: time.Second}, func(ctx context.Context, _ postrider.Request) (postrider.Response, error) {
					if time.Since(begun) < time.Second {
						return postrider.Response{}, sleep(ctx, 10*time.Second)
					}
					return postrider.Response{Code: 200}, nil
				})
				b.hook("a")
				stop := b.run()
				time.AfterFunc(time.Second, func() { _ = stop() })
				a, err := b.SendTest(t.Context(), "a")
				require.NoError(t, err)
				require.Equal(t, 200, a.Code)
				require.Equal(t, 1, a.Number)
				require.Len(t, b.times(), 2)
			})
		})
	})
}

// stubborn is a store some of whose calls fail, before or after they are done.
type stubborn struct {
	postrider.Store
	mu       sync.Mutex
	complete int   // calls of Complete that fail
	enqueue  error // of Enqueue, after it is done
	claim    func()
}

func (s *stubborn) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	r, err := s.Store.Enqueue(ctx, items)
	if s.enqueue != nil && items[0].Test {
		return nil, s.enqueue
	}
	return r, err
}

func (s *stubborn) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	if s.claim != nil && r.Only != "" {
		s.claim()
	}
	return s.Store.Claim(ctx, r)
}

func (s *stubborn) Complete(ctx context.Context, o []postrider.Outcome) (int, error) {
	s.mu.Lock()
	s.complete--
	fails := s.complete >= 0
	s.mu.Unlock()
	if fails {
		return 0, postrider.ErrFull
	}
	return s.Store.Complete(ctx, o)
}

func TestSendTestLeavesNothingToBeSentLater(t *testing.T) {
	t.Parallel()
	local := func(context.Context, postrider.Request) (postrider.Response, error) {
		return postrider.Response{}, syscall.EMFILE
	}
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		for _, c := range []struct {
			name    string
			answer  reply
			set     func(b *bench, s *stubborn)
			run     bool // Run goes on
			late    bool // and is first
			timeout time.Duration
			is      error
			text    string
			made    bool // there was an attempt
			took    time.Duration
		}{
			{name: "its context ends during the attempt", answer: hang, timeout: time.Second, is: context.DeadlineExceeded, took: time.Second},
			{name: "its context ends during the attempt of Run", answer: answers(10*time.Second, 500), run: true, late: true, timeout: time.Second, is: context.DeadlineExceeded, took: time.Second},
			{name: "its context ends while Run waits for the claim", answer: hang, run: true, timeout: time.Second, is: context.DeadlineExceeded, took: time.Second},
			{name: "no means", answer: local, timeout: time.Minute, text: "lacks the means to send"},
			{name: "the webhook is deleted", answer: hang, set: func(b *bench, s *stubborn) {
				s.claim = func() { _ = b.DeleteWebhook(context.Background(), "a") }
			}, timeout: time.Minute, is: postrider.ErrNotFound},
			{name: "the delivery is canceled", answer: hang, set: func(b *bench, s *stubborn) {
				s.claim = func() { _, _ = b.Cancel(context.Background(), postrider.DeliveryQuery{}) }
			}, timeout: time.Minute, is: postrider.ErrEnded},
			{name: "whether it is stored is unknown", answer: hang, set: func(_ *bench, s *stubborn) { s.enqueue = postrider.ErrStore },
				timeout: time.Minute, is: postrider.ErrStore},
			{name: "its attempt cannot be recorded", answer: answers(0, 200), set: func(_ *bench, s *stubborn) { s.complete = 1000 },
				timeout: time.Minute, is: postrider.ErrFull, made: true, took: 5 * time.Second},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					store := &stubborn{Store: open(t)}
					b := newBench(t, store, postrider.Config{}, c.answer)
					b.hook("a")
					stop := func() error { return nil }
					if c.run {
						if c.late {
							store.claim = func() { time.Sleep(time.Millisecond) }
						}
						stop = b.run()
						synctest.Wait()
					}
					if c.set != nil {
						c.set(b, store)
					}
					begun := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
					defer cancel()
					a, err := b.SendTest(ctx, "a")
					require.Error(t, err)
					if c.is != nil {
						require.ErrorIs(t, err, c.is)
					}
					require.ErrorContains(t, err, c.text)
					require.NotContains(t, err.Error(), "hidden")
					require.Equal(t, c.took, time.Since(begun))
					require.Equal(t, c.made, a.Number == 1)
					sent := len(b.times())

					store.mu.Lock()
					store.complete = 0
					store.mu.Unlock()
					if c.run {
						time.Sleep(time.Hour)
						require.NoError(t, stop())
					} else {
						b.runFor(time.Hour)
					}
					require.Len(t, b.times(), sent, "nothing more is sent")
					list := b.tests()
					require.Len(t, list, 1)
					require.Equal(t, postrider.StatusCanceled, list[0].Status)
				})
			})
		}
	})
}

func TestSendTestRecordsWhatWasSent(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		t.Run("after errors of the store", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, &stubborn{Store: open(t), complete: 3}, postrider.Config{}, answers(0, 200))
				b.hook("a")
				begun := time.Now()
				a, err := b.SendTest(t.Context(), "a")
				require.NoError(t, err)
				require.Equal(t, 350*time.Millisecond, time.Since(begun)) // 50 + 100 + 200 ms
				require.Equal(t, "DELIVERED", b.status(a.DeliveryID))
			})
		})
		t.Run("when its context ends with the answer", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				b := newBench(t, open(t), postrider.Config{}, func(context.Context, postrider.Request) (postrider.Response, error) {
					cancel()
					return postrider.Response{Code: 200}, nil
				})
				b.hook("a")
				a, err := b.SendTest(ctx, "a")
				require.NoError(t, err)
				require.Equal(t, "DELIVERED", b.status(a.DeliveryID))
			})
		})
		t.Run("when it is canceled meanwhile", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var b *bench
				b = newBench(t, open(t), postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
					_, err := b.Cancel(ctx, postrider.DeliveryQuery{ID: r.DeliveryID})
					require.NoError(t, err)
					return postrider.Response{Code: 500}, nil
				})
				b.hook("a")
				a, err := b.SendTest(t.Context(), "a")
				require.NoError(t, err)
				v, attempts := b.delivery(a.DeliveryID)
				require.Equal(t, postrider.StatusCanceled, v.Status)
				require.Equal(t, []postrider.Attempt{a}, attempts)
			})
		})
	})
}

func TestSendTestOfAnUnknownWebhookStoresNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, postrider.Config{}, answers(0, 200))
	b.hook("a")
	for _, id := range []string{"b", "", "no such id"} {
		_, err := b.SendTest(t.Context(), id)
		require.ErrorIs(t, err, postrider.ErrNotFound, "%q", id)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.SendTest(ctx, "a")
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, b.tests())
}

func TestSendTestNeedsAnIDOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		id := "same"
		b := newBench(t, nil, postrider.Config{NewEventID: func() string { return id }}, answers(0, 200))
		b.hook("a")
		event := b.emit("same", "x")
		_, err := b.SendTest(t.Context(), "a")
		require.ErrorIs(t, err, postrider.ErrExists)
		require.Equal(t, "NEW", b.status(event), "the event that has the ID is not touched")
		id = "not an id"
		_, err = b.SendTest(t.Context(), "a")
		require.Equal(t, []string{`Event.ID is "not an id", want 1 to 64 of [A-Za-z0-9_-], or empty`}, fields(t, err))
		require.Empty(t, b.tests())
	})
}

func TestSendTestIsObserved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code  int
		kinds []postrider.NoticeKind
	}{
		{200, []postrider.NoticeKind{postrider.NoticeEmitted, postrider.NoticeAttempted, postrider.NoticeDelivered}},
		{410, []postrider.NoticeKind{postrider.NoticeEmitted, postrider.NoticeAttempted, postrider.NoticeFailed}},
		{0, []postrider.NoticeKind{postrider.NoticeEmitted, postrider.NoticeCanceled}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var told []postrider.Notice
			b := newBench(t, nil, postrider.Config{
				NewEventID: func() string { return "e" },
				Observe:    func(n postrider.Notice) { told = append(told, n) },
			}, func(context.Context, postrider.Request) (postrider.Response, error) {
				if c.code == 0 {
					return postrider.Response{}, &postrider.SendError{Class: postrider.ClassLocal, Err: errors.New("none")}
				}
				return postrider.Response{Code: c.code}, nil
			})
			b.hook("a", func(w *postrider.Webhook) { w.Project = "p" })
			a, err := b.SendTest(t.Context(), "a")
			require.Equal(t, c.code == 0, err != nil)
			var kinds []postrider.NoticeKind
			for _, n := range told {
				kinds = append(kinds, n.Kind)
			}
			require.Equal(t, c.kinds, kinds)
			require.Equal(t, postrider.Notice{Kind: told[0].Kind, Time: time.Now(), Project: "p", EventID: "e", EventType: "TEST", Count: 1}, told[0])
			if c.code == 0 {
				require.Equal(t, 1, told[1].Count)
				return
			}
			require.Equal(t, &a, told[1].Attempt)
			for _, n := range told[1:] {
				require.Equal(t, []string{"p", "e", "TEST", "a", a.DeliveryID}, []string{n.Project, n.EventID, n.EventType, n.WebhookID, n.DeliveryID})
			}
		})
	}
}

func TestTestEventsAreInTheDocumentedViews(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, open(t), postrider.Config{}, answers(0, 200))
			b.hook("a")
			a, err := b.SendTest(t.Context(), "a")
			require.NoError(t, err)

			past, err := b.History(t.Context(), "a", postrider.HistoryQuery{})
			require.NoError(t, err)
			require.Len(t, past, 1)
			require.Equal(t, "TEST", past[0].Source.Event)
			require.JSONEq(t, `{"test":true,"message":"This is a test event. Nothing has happened."}`, string(past[0].Source.Payload))
			dispatch, err := b.Dispatch(t.Context(), a.DeliveryID)
			require.NoError(t, err)
			require.Equal(t, "TEST", dispatch.EventType)
			require.Len(t, dispatch.Calls, 1)
			event, err := b.WebhookEvent(t.Context(), "a", a.ID())
			require.NoError(t, err)
			require.Equal(t, "TEST", event.Kind)
			require.False(t, event.DeliveryFailed)
		})
	})
}

func TestSendTestOverHTTPKeepsNoConnection(t *testing.T) {
	t.Parallel()
	verifier, err := signature.NewVerifier(testSecret)
	require.NoError(t, err)
	closed := make(chan struct{}, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = verifier.Verify(r.Header, body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte("thanks"))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.Start()
	defer server.Close()
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Logger: quiet(), Network: loopback})
	require.NoError(t, err)
	secret, err := postrider.ParseSecret(testSecret)
	require.NoError(t, err)
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{Name: "a", URL: server.URL, Events: []string{"x"}, Secrets: []postrider.Secret{secret}})
	require.NoError(t, err)
	a, err := d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.Equal(t, 200, a.Code)
	require.Equal(t, "thanks", string(a.Body))
	<-closed // Run is not there to close it
}
