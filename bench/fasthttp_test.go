package bench_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// fastSender is fasthttp as a Sender, to show what the HTTP client costs. It is no sender to use: no guard judges the
// address, and nothing is bounded as HTTPSender bounds it.
type fastSender struct{ client fasthttp.Client }

func (s *fastSender) Send(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return postrider.Response{}, errors.New("no deadline")
	}
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod(r.Method)
	req.SetRequestURI(r.URL.String())
	for name, values := range r.Header {
		for _, v := range values {
			req.Header.Add(name, v)
		}
	}
	req.SetBodyRaw(r.Body)
	if err := s.client.DoDeadline(req, resp, deadline); err != nil {
		return postrider.Response{}, err
	}
	return postrider.Response{Code: resp.StatusCode(), Body: append([]byte(nil), resp.Body()...)}, nil
}

func openBoltFast(b *testing.B, w *work, _ *servers, inFlight int) (queue, error) {
	sender := &fastSender{fasthttp.Client{MaxConnsPerHost: 512, MaxIdleConnDuration: 30 * time.Second}}
	return openOurs(b, w, inFlight, sender, inFile(b, func(path string) (postrider.Store, error) {
		return bolt.Open(path, bolt.Options{})
	}))
}
