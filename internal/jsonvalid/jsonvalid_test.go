package jsonvalid_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/jsonvalid"
)

var seeds = []string{
	``, ` `, `{}`, `[]`, `null`, `true`, `false`, `nul`, `nulll`, `tru`, `truefalse`, `0`, `-0`, `-`, `01`, `-01`, `1.`, `.1`, `1.5e`, `1e+`, `1E-9`,
	`1e5.`, `--1`, `+1`, `0x1`, `NaN`, `""`, `"`, `"\"`, `"\u12"`, `"\u12g4"`, `"\u00e9"`, `"\uD800"`, `"\x"`, "\"\x1f\"", "\"\x00\"", "\"\x7f\"",
	"\"\xff\xfe\"", "\"12345678\n\"", `"1234567\"8"`, `"12345678\\"`, `{"a":1}`, `{"a":1,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{,}`, `{"a":1 "b":2}`,
	`[1,]`, `[,]`, `[1 2]`, `[1,2`, `{"a":[{"b":"c"}]}`, `{"a":1]`, `[1}`, "\t{ \"a\" : [ 1 , 2 ] }\r\n", "{}{}", "[]x", "\v1", "\ufeff{}", "1 ", " 1 2",
	"/**/1", "'a'", `{"a":1,"a":2}`, "\"\u00e9\u4e16\u754c \U0001f600 and more\"",
}

func TestValidIsWhatEncodingJSONSays(t *testing.T) {
	t.Parallel()
	for _, s := range seeds {
		require.Equal(t, json.Valid([]byte(s)), jsonvalid.Valid([]byte(s)), "%q", s)
	}
}

func TestEveryByteAtEveryPlaceOfAString(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		for at := range 80 { // more than are looked at at once
			b := []byte(`"` + strings.Repeat("a", 80) + `"`)
			b[1+at] = byte(c)
			require.Equal(t, json.Valid(b), jsonvalid.Valid(b), "%q", b)
		}
	}
}

func TestDepthIsBounded(t *testing.T) {
	t.Parallel()
	for _, n := range []int{9_999, 10_000, 10_001, 1_000_000} {
		for _, pair := range [][2]string{{"[", "]"}, {`{"a":`, "}"}} {
			whole := []byte(strings.Repeat(pair[0], n) + "1" + strings.Repeat(pair[1], n))
			require.Equal(t, n <= 10_000, jsonvalid.Valid(whole))
			require.Equal(t, json.Valid(whole), jsonvalid.Valid(whole))
			require.False(t, jsonvalid.Valid(whole[:len(whole)/2]))
		}
	}
}

func FuzzValid(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, want := jsonvalid.Valid(data), json.Valid(data); got != want {
			t.Fatalf("%v, want %v as encoding/json says: %q", got, want, data)
		}
	})
}

func BenchmarkValid(b *testing.B) {
	data := []byte(`{"id":"cus_1","amount":1999,"tags":["a","b"],"note":"` + strings.Repeat("All is well. ", 75) + `"}`)
	for _, v := range []struct {
		name  string
		valid func([]byte) bool
	}{{"ours", jsonvalid.Valid}, {"encoding-json", json.Valid}} {
		b.Run(v.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if !v.valid(data) {
					b.Fatal("not valid")
				}
			}
		})
	}
}
