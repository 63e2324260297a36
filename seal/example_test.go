package seal_test

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/postrider/postrider/seal"
)

// A key is replaced while values sealed with the old one are still there.
func ExampleNew() {
	var raw [2][seal.KeySize]byte // a real program takes them from where it keeps such keys
	_, _ = rand.Read(raw[0][:])
	_, _ = rand.Read(raw[1][:])
	old, current := seal.NewKey("2025", raw[0][:]), seal.NewKey("2026", raw[1][:])

	before, err := seal.New(old)
	if err != nil {
		fmt.Println(err)
		return
	}
	sealed, err := before.Seal([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), []byte("webhook-1"))
	if err != nil {
		fmt.Println(err)
		return
	}

	after, err := seal.New(current, old)
	if err != nil {
		fmt.Println(err)
		return
	}
	secret, err := after.Open(sealed, []byte("webhook-1"))
	fmt.Println(string(secret), err)
	_, err = after.Open(sealed, []byte("webhook-2"))
	fmt.Println(errors.Is(err, seal.ErrRefused))

	sealed, err = after.Seal(secret, []byte("webhook-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(seal.KeyID(sealed))
	fmt.Println(current)
	// Output:
	// whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw <nil>
	// true
	// 2026 <nil>
	// [secret]
}
