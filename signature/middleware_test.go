package signature_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// guarded answers what a request came to: the status, the body that the handler saw, if it
// was called, and the reason that Refused was told.
func guarded(v signature.RequestVerifier, limit int64, r *http.Request) (code int, answer, seen string, reason error) {
	o := signature.MiddlewareOptions{MaxBody: limit, Refused: func(_ *http.Request, err error) { reason = err }}
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		seen = string(body)
		if err != nil || r.ContentLength != int64(len(body)) || r.Body.Close() != nil {
			seen = "broken"
		}
		w.WriteHeader(http.StatusNoContent)
	})
	w := httptest.NewRecorder()
	signature.Middleware(v, o)(next).ServeHTTP(w, r)
	return w.Code, w.Body.String(), seen, reason
}

func request(header http.Header, body io.Reader) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", body)
	r.Header = header
	return r
}

func TestMiddlewareLetsGenuineRequestsThrough(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]signature.RequestVerifier{
		"one":         at(t, vectorTimestamp, vectorSecret),
		"several":     at(t, vectorTimestamp, format(rawKey(32)), publicText, vectorSecret),
		"any, first":  signature.Any(at(t, vectorTimestamp, vectorSecret), mustBody(t, "", githubSecret)),
		"any, second": signature.Any(mustBody(t, "", githubSecret), at(t, vectorTimestamp, vectorSecret)),
	} {
		for _, limit := range []int64{0, int64(len(vectorBody))} {
			known := strings.NewReader(vectorBody)
			unknown := struct{ io.Reader }{strings.NewReader(vectorBody)} // no length, as a chunked body
			for _, body := range []io.Reader{known, unknown} {
				status, _, seen, reason := guarded(v, limit, request(vectorHeader(), body))
				require.NoError(t, reason, name)
				require.Equal(t, http.StatusNoContent, status)
				require.Equal(t, vectorBody, seen)
			}
		}
	}
	empty := sign(mustKey(t, vectorSecret), "id", 1, "")
	status, _, _, _ := guarded(at(t, 1, vectorSecret), 0, request(empty, nil))
	require.Equal(t, http.StatusNoContent, status)
}

func TestMiddlewareRefuses(t *testing.T) {
	t.Parallel()
	v := at(t, vectorTimestamp, vectorSecret)
	weak := mustBody(t, "", githubSecret)
	late := at(t, vectorTimestamp+301, vectorSecret)
	gone := errors.New("connection gone")
	unusable := &signature.Verifier{}
	tooLarge := new(http.MaxBytesError)
	for name, c := range map[string]struct {
		verifier signature.RequestVerifier
		limit    int64
		body     io.Reader
		status   int
		reason   error
	}{
		"another body":       {v, 0, strings.NewReader("x"), 401, signature.ErrNoMatch},
		"too old":            {late, 0, strings.NewReader(vectorBody), 401, signature.ErrTooOld},
		"another scheme":     {weak, 0, strings.NewReader(vectorBody), 401, signature.ErrMissingHeader},
		"none of any":        {signature.Any(weak, v), 0, strings.NewReader("x"), 401, signature.ErrMissingHeader},
		"none of any, too":   {signature.Any(weak, v), 0, strings.NewReader("x"), 401, signature.ErrNoMatch},
		"too large":          {v, 5, strings.NewReader(vectorBody), 413, tooLarge},
		"too large, chunked": {v, 5, struct{ io.Reader }{strings.NewReader(vectorBody)}, 413, tooLarge},
		"over the default":   {v, 0, strings.NewReader(strings.Repeat("a", 1<<20+1)), 413, tooLarge},
		"as large as may":    {v, 0, strings.NewReader(strings.Repeat("a", 1<<20)), 401, signature.ErrNoMatch},
		"broken":             {v, 0, iotest.ErrReader(gone), 400, gone},
		"no verifier":        {nil, 0, strings.NewReader(vectorBody), 500, signature.ErrVerifier},
		"unusable":           {unusable, 0, strings.NewReader(vectorBody), 500, signature.ErrVerifier},
		"negative limit":     {v, -1, strings.NewReader(vectorBody), 500, signature.ErrVerifier},
		"any of none":        {signature.Any(), 0, strings.NewReader(vectorBody), 500, signature.ErrVerifier},
		"any of nil":         {signature.Any(v, nil), 0, strings.NewReader(vectorBody), 500, signature.ErrVerifier},
		"any, one unusable":  {signature.Any(v, unusable), 0, strings.NewReader(vectorBody), 500, signature.ErrVerifier},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, answer, seen, reason := guarded(c.verifier, c.limit, request(vectorHeader(), c.body))
			require.Equal(t, c.status, status)
			require.Equal(t, http.StatusText(c.status)+"\n", answer, "the reason stays here")
			require.Empty(t, seen)
			if c.reason == tooLarge {
				var target *http.MaxBytesError
				require.ErrorAs(t, reason, &target)
			} else {
				require.ErrorIs(t, reason, c.reason)
			}
			require.True(t, strings.HasPrefix(reason.Error(), "signature: "), reason.Error())
		})
	}
}

func TestMiddlewareLeavesTheRequestAlone(t *testing.T) {
	t.Parallel()
	r := request(vectorHeader(), strings.NewReader(vectorBody))
	body := r.Body
	nobody := signature.Middleware(at(t, vectorTimestamp+301, vectorSecret), signature.MiddlewareOptions{})(nil)
	w := httptest.NewRecorder()
	nobody.ServeHTTP(w, r) // without Refused
	require.Equal(t, http.StatusUnauthorized, w.Code)
	require.True(t, body == r.Body)
}

func TestMiddlewareServes(t *testing.T) {
	t.Parallel()
	key := mustKey(t, vectorSecret)
	v, err := signature.NewVerifier(vectorSecret)
	require.NoError(t, err)
	server := httptest.NewServer(signature.Middleware(v, signature.MiddlewareOptions{})(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })))
	defer server.Close()

	for body, want := range map[string]int{"{}": 200, strings.Repeat("a", 1<<20): 200, strings.Repeat("a", 2<<20): 413} {
		chunked := struct{ io.Reader }{strings.NewReader(body)}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, chunked)
		require.NoError(t, err)
		req.Header = sign(key, "evt_1", time.Now().Unix(), body)
		resp, err := server.Client().Do(req)
		require.NoError(t, err)
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode)
		if want == 200 {
			require.Equal(t, body, string(answer))
		}
	}
}
