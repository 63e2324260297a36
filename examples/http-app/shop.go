package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

const (
	challenge = `Bearer realm="shop"`
	maxBody   = 64 << 10
)

// tokens are the customers by the hash of their token: a lookup takes as long for a token that is nearly right. A real
// shop keeps them in its database.
var tokens = map[[sha256.Size]byte]string{
	sha256.Sum256([]byte("ann-token")): "ann",
	sha256.Sum256([]byte("bob-token")): "bob",
}

// customer returns who sent the request.
func customer(r *http.Request) (id string, ok bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", false
	}
	id, ok = tokens[sha256.Sum256([]byte(token))]
	return id, ok
}

// shop is the handlers. Each customer is a project of its own, so that an event of one never reaches a webhook of
// another.
type shop struct {
	db    *bbolt.DB
	store *bolt.Store
	d     *postrider.Dispatcher
}

var ordersBucket = []byte("orders")

type order struct {
	ID       string `json:"id"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// createOrder stores an order and emits its event in the same transaction: both, or neither.
func (s *shop) createOrder(w http.ResponseWriter, r *http.Request) {
	id, ok := customer(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "who is it?")
		return
	}
	var o order
	if !read(w, r, &o) {
		return
	}
	if o.ID != "" || o.Customer != "" || o.Item == "" || o.Quantity < 1 {
		refuse(w, http.StatusBadRequest, "want item, quantity of 1 or more, and nothing else")
		return
	}
	o.Customer = id
	if err := s.db.Update(func(tx *bbolt.Tx) error { return s.place(r.Context(), tx, &o) }); err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusCreated, o)
}

// place gives the order its number, and stores it and its event.
func (s *shop) place(ctx context.Context, tx *bbolt.Tx, o *order) error {
	orders, err := tx.CreateBucketIfNotExists(ordersBucket)
	if err != nil {
		return err
	}
	number, err := orders.NextSequence()
	if err != nil {
		return err
	}
	o.ID = strconv.FormatUint(number, 10)
	event, err := postrider.NewEvent(o.Customer, "order.created", o)
	if err != nil {
		return err
	}
	event.ID = "order-created-" + o.ID
	if _, err := s.d.In(s.store.Tx(tx)).Emit(ctx, event); err != nil {
		return err
	}
	return orders.Put([]byte(o.ID), event.Payload)
}

// inbox stands for a customer's receiver: one that verifies signatures is in examples/quickstart.
func inbox(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20)); err != nil {
		refuse(w, http.StatusBadRequest, "the body does not come through")
		return
	}
	answer(w, http.StatusOK, map[string]string{"received": r.Header.Get("Webhook-Id")})
}

// read decodes the body of a request, and refuses it if that is not what is wanted.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	body.DisallowUnknownFields()
	if err := body.Decode(v); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return false
	}
	return true
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error means that nobody reads it any more
}

func refuse(w http.ResponseWriter, status int, message string) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	answer(w, status, map[string]string{"error": message})
}

// fail answers with what an error of the dispatcher means to the caller.
func fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, postrider.ErrInvalid):
		refuse(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, postrider.ErrNotFound):
		refuse(w, http.StatusNotFound, "there is none")
	case errors.Is(err, postrider.ErrExists):
		refuse(w, http.StatusConflict, "the name is in use")
	default:
		log.Print(err)
		refuse(w, http.StatusInternalServerError, "out of order")
	}
}
