package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// poster is the least that can be done to deliver an event with net/http: Transport.RoundTrip under a context
// deadline, the URL prepared, the headers and the signature that a dispatcher sends, the answer read. The bare loop
// and the workers of the peers deliver with it.
type poster struct {
	transport *http.Transport
	urls      []*url.URL
	keys      []signature.Key
}

func newPoster(b *testing.B, w *work) *poster {
	b.Helper()
	var http1 http.Protocols
	http1.SetHTTP1(true)
	p := &poster{transport: &http.Transport{
		MaxIdleConns: 512, MaxIdleConnsPerHost: 512, DisableCompression: true, Protocols: &http1,
		MaxResponseHeaderBytes: 64 << 10,
	}}
	for _, h := range w.webhooks {
		u, err := url.Parse(h.URL)
		require.NoError(b, err)
		key, err := signature.ParseKey(h.Secrets[0].Reveal())
		require.NoError(b, err)
		p.urls, p.keys = append(p.urls, u), append(p.keys, key)
	}
	return p
}

func (p *poster) close() { p.transport.CloseIdleConnections() }

// post delivers an event to the webhook of that number.
func (p *poster) post(ctx context.Context, hook int, id string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	now := time.Now().Unix()
	req := (&http.Request{
		Method: http.MethodPost, URL: p.urls[hook], Host: p.urls[hook].Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Content-Type":      {"application/json"},
			"User-Agent":        {"Postrider/1"},
			"Webhook-Id":        {id},
			"Webhook-Timestamp": {strconv.FormatInt(now, 10)},
			"Webhook-Signature": {p.keys[hook].Sign(id, now, body)},
		},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(ctx)
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
