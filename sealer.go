package postrider

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Sealer encrypts what a store keeps of a webhook's secrets and header values. Package seal has one. It is called from
// many goroutines at once.
type Sealer interface {
	// Seal returns the plaintext encrypted and authenticated, bound to the data: Open refuses it with any other.
	Seal(plaintext, boundTo []byte) ([]byte, error)
	// Open returns what was sealed. Its error holds nothing of it.
	Open(sealed, boundTo []byte) ([]byte, error)
}

// sealedPrefix begins a text that is sealed; the rest is base64. No secret or header value may begin with it.
const sealedPrefix = "sealed:"

var (
	errNoSealer    = errors.New("it is sealed, and there is no Config.Sealer")
	errSealerPanic = errors.New("panic in Config.Sealer")
)

// seal returns the webhook as the store is to keep it: its secrets and header values sealed, bound to its ID. Without
// a Sealer it stays as it is.
func (c *Config) seal(w Webhook) (Webhook, error) {
	if c.Sealer == nil {
		return w, nil
	}
	return w.mapTexts(func(text string) (string, error) {
		sealed, err := unpanicked(c.Sealer.Seal, []byte(text), []byte(w.ID))
		if err != nil {
			return "", err
		}
		return sealedPrefix + base64.RawStdEncoding.EncodeToString(sealed), nil
	})
}

// open reverses seal. What is not sealed stays as it is, so that a store without a Sealer can get one: each webhook is
// sealed when it is changed next.
func (c *Config) open(w Webhook) (Webhook, error) {
	return w.mapTexts(func(text string) (string, error) {
		code, sealed := strings.CutPrefix(text, sealedPrefix)
		switch {
		case !sealed:
			return text, nil
		case c.Sealer == nil:
			return "", errNoSealer
		}
		raw, err := base64.RawStdEncoding.DecodeString(code)
		if err != nil {
			return "", errors.New("it is sealed, and damaged")
		}
		plain, err := unpanicked(c.Sealer.Open, raw, []byte(w.ID))
		return string(plain), err
	})
}

// unpanicked calls a method of a Sealer, and returns an error if it panics, without the value, which may hold a secret.
func unpanicked(f func(text, boundTo []byte) ([]byte, error), text, boundTo []byte) (b []byte, err error) {
	defer func() {
		if recover() != nil {
			b, err = nil, errSealerPanic
		}
	}()
	return f(text, boundTo)
}

// mapTexts returns the webhook with each secret and header value replaced. It does not write to what w refers to.
func (w Webhook) mapTexts(f func(string) (string, error)) (Webhook, error) {
	secrets := make([]Secret, len(w.Secrets))
	for i, s := range w.Secrets {
		text, err := f(s.text)
		if err != nil {
			return Webhook{}, fmt.Errorf("webhook %s: secret %d: %w", quote(w.ID), i, err)
		}
		secrets[i] = Secret{text: text, ExpiresAt: s.ExpiresAt}
	}
	var header http.Header
	for name, values := range w.Header {
		list := make([]string, len(values))
		for i, v := range values {
			text, err := f(v)
			if err != nil {
				return Webhook{}, fmt.Errorf("webhook %s: header %s: %w", quote(w.ID), quote(name), err)
			}
			list[i] = text
		}
		if header == nil {
			header = make(http.Header, len(w.Header))
		}
		header[name] = list
	}
	if len(secrets) > 0 {
		w.Secrets = secrets
	}
	if header != nil {
		w.Header = header
	}
	return w, nil
}
