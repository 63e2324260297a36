package signature_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/postrider/postrider/signature"
)

// A handler that sees genuine requests alone. The receiver knows two secrets while the
// sender changes from the one to the other.
func ExampleMiddleware() {
	v, err := signature.NewVerifier("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	if err != nil {
		fmt.Println(err)
		return
	}
	v.Now = func() time.Time { return time.Unix(1614265330, 0) } // for the example alone

	genuine := signature.Middleware(v, signature.MiddlewareOptions{
		Refused: func(_ *http.Request, err error) { fmt.Println(errors.Is(err, signature.ErrNoMatch)) },
	})
	handler := genuine(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // cannot fail: it was read before
		fmt.Printf("%s: %s\n", r.Header.Get(signature.HeaderID), body)
		w.WriteHeader(http.StatusNoContent)
	}))

	for _, body := range []string{`{"test": 2432232314}`, `{"test": 1}`} {
		r := httptest.NewRequest(http.MethodPost, "/webhooks", strings.NewReader(body))
		r.Header.Set("Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
		r.Header.Set("Webhook-Timestamp", "1614265330")
		r.Header.Set("Webhook-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// msg_p5jXN8AQM9LWM0D4loKWxJek: {"test": 2432232314}
	// 204
	// true
	// 401
}

// A receiver of v1a has the public key, with which nobody can sign.
func ExampleNewVerifier_v1a() {
	v, err := signature.NewVerifier("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")
	if err != nil {
		fmt.Println(err)
		return
	}
	v.Now = func() time.Time { return time.Unix(1614265330, 0) } // for the example alone

	header := http.Header{}
	header.Set("Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
	header.Set("Webhook-Timestamp", "1614265330")
	header.Set("Webhook-Signature",
		"v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==")
	fmt.Println(v.Verify(header, []byte(`{"test": 2432232314}`)))
	// Output: <nil>
}

func ExampleNewStripeVerifier() {
	v, err := signature.NewStripeVerifier("whsec_test_secret_0123456789")
	if err != nil {
		fmt.Println(err)
		return
	}
	v.Now = func() time.Time { return time.Unix(1614265330, 0) } // for the example alone

	header := http.Header{}
	header.Set("Stripe-Signature", "t=1614265330,v1=f8d3a4a7a8ca36ef2e4c33e8a5282062ca868c275b5efa2efa3e6e690d9b51cc")
	fmt.Println(v.Verify(header, []byte(`{"id":"evt_1"}`)))
	fmt.Println(errors.Is(v.Verify(header, []byte(`{"id":"evt_2"}`)), signature.ErrNoMatch))
	// Output:
	// <nil>
	// true
}

func ExampleNewGitHubVerifier() {
	v, err := signature.NewGitHubVerifier("It's a Secret to Everybody")
	if err != nil {
		fmt.Println(err)
		return
	}
	header := http.Header{}
	header.Set("X-Hub-Signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")
	fmt.Println(v.Verify(header, []byte("Hello, World!")))
	// Output: <nil>
}

// Where the body alone is signed, the receiver itself refuses what is old, by a time in the
// verified body.
func ExampleNewBodyVerifier() {
	v, err := signature.NewBodyVerifier("X-Acme-Signature", "a secret of sixteen bytes or more")
	if err != nil {
		fmt.Println(err)
		return
	}
	receive := func(header http.Header, body []byte, now time.Time) error {
		if err := v.Verify(header, body); err != nil {
			return err
		}
		var event struct{ TimestampSent int64 }
		if err := json.Unmarshal(body, &event); err != nil {
			return err
		}
		if age := now.Sub(time.Unix(event.TimestampSent, 0)); age.Abs() > signature.DefaultTolerance {
			return fmt.Errorf("sent %v ago", age)
		}
		return nil
	}

	header := http.Header{}
	header.Set("X-Acme-Signature", "sha256=c5427739289c402a06f9da68ce3c3fb2e4e1f566894cca37357ba69466804c60")
	body := []byte(`{"timestampSent":1614265330}`)
	fmt.Println(receive(header, body, time.Unix(1614265331, 0)))
	fmt.Println(receive(header, body, time.Unix(1614268930, 0)))
	// Output:
	// <nil>
	// sent 1h0m0s ago
}

// A sender keeps a list of schemes and one of secrets for each receiver. It prepares what
// can sign with what once, and signs each attempt with all.
func ExampleScheme_Prepare() {
	schemes := []string{"v1", "v1a", "stripe", "github"}
	secrets := []string{ // newest first
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		"whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
		"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
	}
	var signers []signature.Signer
	for _, text := range schemes {
		scheme, err := signature.ParseScheme(text)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, secret := range secrets {
			if !scheme.Accepts(secret) {
				continue
			}
			signer, err := scheme.Prepare(secret)
			if err != nil {
				fmt.Println(err)
				return
			}
			signers = append(signers, signer)
		}
	}

	id, body := "msg_p5jXN8AQM9LWM0D4loKWxJek", []byte(`{"test": 2432232314}`)
	values := map[string][]byte{}
	for _, s := range signers {
		values[s.Header()] = s.AppendSign(values[s.Header()], id, 1614265330, body)
	}
	fmt.Println(strings.ReplaceAll(string(values["Webhook-Signature"]), " ", "\n"))
	fmt.Println(strings.ReplaceAll(string(values["Stripe-Signature"]), ",", "\n"))
	fmt.Println(string(values["X-Hub-Signature-256"]))
	// Output:
	// v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
	// v1,woH/1mJtZGSMCmpFTxRYbStS24eLLD/oXIYr4PYyZ7g=
	// v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==
	// t=1614265330
	// v1=2e37df5d4a028c51a7f3133d64ae1e300d2c2c900f1b1d49d4369ad2530f8964
	// v1=85efcdca57f027f9d7f0041667385aebf8d2b9c445fef85c1625025e2e4192bf
	// sha256=80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c
}
