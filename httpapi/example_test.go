package httpapi_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/httpapi"
	"github.com/postrider/postrider/memstore"
)

// The views under /api, for callers with a token. A whole program is in examples/http-app.
func Example() {
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.CreateWebhook(context.Background(), postrider.Webhook{
		ID: "wh-1", Name: "books", Owner: "ann", URL: "https://ann.example.com", Events: []string{"*"},
	}); err != nil {
		log.Fatal(err)
	}

	views, err := httpapi.New(d, httpapi.Options{
		Authorize: func(r *http.Request, p httpapi.Permission) (httpapi.Scope, error) {
			switch r.Header.Get("Authorization") {
			case "Bearer of-ann":
				return httpapi.Scope{Owner: "ann"}, nil // she sees what is hers
			case "Bearer of-support":
				if p == httpapi.PermissionEventsRead {
					return httpapi.Scope{}, nil // everything, in one of the views
				}
				return httpapi.Scope{}, httpapi.ErrForbidden
			}
			return httpapi.Scope{}, httpapi.ErrUnauthenticated
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", views))

	for _, token := range []string{"of-ann", "of-support", "of-nobody"} {
		r := httptest.NewRequest(http.MethodGet, "/api/v2/webhooks/wh-1/dispatches", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Result().Body)
		fmt.Printf("%d %s\n", w.Code, body)
	}
	// Output:
	// 200 {"data":{"total":0,"offset":0,"limit":1000,"desc":false,"count":0,"items":[]}}
	// 403 {"error":{"type":"forbidden","message":"The permission is missing"}}
	// 401 {"error":{"type":"unauthenticated","message":"Authentication is required"}}
}
