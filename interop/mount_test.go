package interop_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/httpapi"
	"github.com/postrider/postrider/memstore"
)

// TestHTTPAPIMountsInEveryRouter asks the same of httpapi in four routers, under two prefixes, and wants the answers
// that it gives without a router.
func TestHTTPAPIMountsInEveryRouter(t *testing.T) {
	t.Parallel()
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	_, err = d.CreateWebhook(t.Context(), postrider.Webhook{ID: "wh-1", Name: "books", URL: "https://example.com", Events: []string{"*"}})
	require.NoError(t, err)
	receipt, err := d.Emit(t.Context(), postrider.Event{Type: "order.created", Payload: []byte(`{"a":1}`)})
	require.NoError(t, err)
	h, err := httpapi.New(d, httpapi.Options{Authorize: func(*http.Request, httpapi.Permission) (httpapi.Scope, error) {
		return httpapi.Scope{}, nil
	}})
	require.NoError(t, err)

	gin.SetMode(gin.ReleaseMode)
	for _, prefix := range []string{"/api", "/a/b"} {
		stripped := http.StripPrefix(prefix, h)
		standard := http.NewServeMux()
		standard.Handle(prefix+"/", stripped)
		c := chi.NewRouter()
		c.Mount(prefix, stripped)
		e := echo.New()
		e.Any(prefix+"/*", echo.WrapHandler(stripped))
		g := gin.New()
		g.Any(prefix+"/*path", gin.WrapH(stripped))

		for name, router := range map[string]http.Handler{"net/http": standard, "chi": c, "echo": e, "gin": g} {
			for _, target := range []string{
				"/events/v2/history/webhooks/books",
				"/events/v2/history/webhooks/b%6Foks?limit=1&status=NEW",
				"/events/v2/history/webhooks/a%2Fb?limit=0&x=1",
				"/events/v2/history/webhooks/",
				"/v2/webhook-dispatches/" + receipt.Deliveries[0],
				"/v2/webhook-dispatches?desc=1",
				"/v2/webhook-dispatches/",
				"/v2/webhooks/wh-1/dispatches",
				"/webhooks/wh-1/events/" + receipt.Deliveries[0] + "-1",
				"/webhooks/wh-1/events?limit=200",
				"/nothing/here",
			} {
				for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete, http.MethodOptions} {
					want, got := httptest.NewRecorder(), httptest.NewRecorder()
					h.ServeHTTP(want, httptest.NewRequest(method, target, nil))
					router.ServeHTTP(got, httptest.NewRequest(method, prefix+target, nil))
					what := name + " " + method + " " + prefix + target
					require.Equal(t, want.Code, got.Code, what)
					require.Equal(t, want.Result().Header, got.Result().Header, what)
					text, err := io.ReadAll(got.Result().Body)
					require.NoError(t, err)
					require.Equal(t, want.Body.String(), string(text), what)
				}
			}
		}
	}
}
