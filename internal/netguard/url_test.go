package netguard_test

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

type urlCase struct {
	URL   string
	Allow bool
	Why   string
}

func TestHostileURLs(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{})
	for _, c := range cases[urlCase](t, "urls.json") {
		found := g.CheckURL(c.URL)
		require.Equal(t, c.Allow, len(found) == 0, "%q (%s): %v", c.URL, c.Why, found)
	}
}

// reasons joins what CheckURL found, with the codes.
func reasons(found []netguard.Problem) string {
	var texts []string
	for _, p := range found {
		texts = append(texts, p.Code+": "+p.Reason)
	}
	return strings.Join(texts, "\n")
}

func TestURLReasons(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{})
	for text, want := range map[string]string{
		"":                        `required: is empty, want http or https with a host`,
		"https://x/":              `bad_format: has the host "x", want a full name with a dot`,
		"https://localhost:8080/": `bad_format: has the host "localhost", which is this machine, want a public name`,
		"https://db.internal/": `bad_format: has the host "db.internal", want a public name: ` +
			`.internal is for inner networks or special uses`,
		"https://127.1/":          `bad_format: has the host "127.1", want a name, or an address of four decimal numbers`,
		"https://10.0.0.1/":       `out_of_range: has the host "10.0.0.1", private use (RFC 1918); want a public address`,
		"https://[fe80::1%25e0]/": `out_of_range: has the host "[fe80::1%25e0]", has a zone; want a public address`,
		"https://a.example:22/":   `out_of_range: has the port "22", want one of 80, 443, 8080, 8443`,
		"https://a.example:70000": `out_of_range: has the port "70000", want 1 to 65535 without leading zeros, or none`,
		"https://a.example:":      `out_of_range: has an empty port, want 1 to 65535 or no colon`,
		"https://a.example:pw/x": `out_of_range: has a port that is not shown, ` +
			`want 1 to 65535 without leading zeros, or none`,
		"https:///x": `bad_format: has no host, want http or https with a host`,
		"https://ü.example/": `bad_format: has the host "ü.example", ` +
			`want labels of a-z, 0-9 and inner hyphens with dots between; ` +
			`other letters in their xn-- form`,
		"mailto:a@example.com": `bad_format: does not begin with a scheme and a host, want http or https with a host`,
		"https://a.example/%":  `bad_format: does not parse as a URL, want every % followed by two hex digits`,
		"https://a.example/ ":  `bad_format: holds a space, a backslash or a control character, want a URL without`,
		"ftp://u:p@10.0.0.1:21/#f": "bad_format: has the scheme \"ftp\", want http or https\n" +
			"bad_format: has a fragment, want none\n" +
			"bad_format: has a user, want none: use a header for credentials\n" +
			"out_of_range: has a host that is not shown, private use (RFC 1918); want a public address\n" +
			"out_of_range: has a port that is not shown, want one of 80, 443, 8080, 8443",
		"https://example.com/" + strings.Repeat("a", 2100): `out_of_range: is 2120 bytes, want at most 2048`,
	} {
		require.Equal(t, want, reasons(g.CheckURL(text)), "%q", text)
	}
	long := g.CheckURL("https://" + strings.Repeat("a", 1000) + "/")
	require.Contains(t, reasons(long), `aaa"... (1000 bytes)`, "cut")
}

func TestRequireHTTPS(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{RequireHTTPS: true, AllowPrefixes: prefixes("10.0.0.0/8")})
	require.Empty(t, g.CheckURL("https://example.com/"))
	require.Equal(t, `bad_format: has the scheme "http", want https`, reasons(g.CheckURL("http://example.com/")))
	require.NotEmpty(t, g.CheckURL("http://10.0.0.1/"), "AllowPrefixes does not lift it")
	require.Equal(t, `required: is empty, want https with a host`, reasons(g.CheckURL("")))
}

func TestAllowPorts(t *testing.T) {
	t.Parallel()
	g := newGuard(t, netguard.Policy{AllowPorts: []uint16{9443}})
	require.Empty(t, g.CheckURL("https://example.com:9443/"))
	require.Equal(t, `out_of_range: has the port "443", want 9443`, reasons(g.CheckURL("https://example.com/")),
		"the port that the scheme stands for counts as well")
	require.NotEmpty(t, g.CheckURL("http://example.com/"))

	many := make([]uint16, 20)
	for i := range many {
		many[i] = uint16(i + 1)
	}
	g = newGuard(t, netguard.Policy{AllowPorts: many})
	require.Contains(t, reasons(g.CheckURL("https://example.com/")), "15, 16, or one of 4 others")
}

func TestAllowPrefixesLiftRulesOfTheText(t *testing.T) {
	t.Parallel()
	inside := newGuard(t, netguard.Policy{AllowPrefixes: prefixes("10.0.0.0/8"), DenyPrefixes: prefixes("10.9.0.0/16")})
	loop4 := newGuard(t, netguard.Policy{AllowPrefixes: prefixes("127.0.0.1/32")})
	loop6 := newGuard(t, netguard.Policy{AllowPrefixes: prefixes("::1/128")})
	all := newGuard(t, netguard.Policy{AllowPrefixes: prefixes("0.0.0.0/0", "::/0")})
	for _, c := range []struct {
		url                       string
		inside, loop4, loop6, all bool
	}{
		{"http://10.1.1.1:6000/", true, false, false, true},
		{"http://10.9.1.1:6000/", false, false, false, true},
		{"http://[::ffff:10.1.1.1]:6000/", true, false, false, true},
		{"http://192.168.1.1/", false, false, false, true},
		{"http://8.8.8.8:6000/", false, false, false, true}, // a literal outside: the port rule holds
		{"http://8.8.8.8/", true, true, true, true},
		{"http://kubernetes:6000/", true, true, true, true}, // left to the dial
		{"http://db.internal/", true, true, true, true},
		{"http://example.com:6000/", true, true, true, true},
		{"http://localhost.localdomain/", true, true, true, true},
		{"http://localhost:9/", false, true, true, true},
		{"http://a.LOCALHOST.:9/", false, true, true, true},
		{"http://127.0.0.1:9/", false, true, false, true},
		{"http://127.0.0.2:9/", false, false, false, true},
		{"http://[::1]:9/", false, false, true, true},
		{"http://127.1/", false, false, false, false}, // what is no name and no address stays refused
		{"http://0x7f000001/", false, false, false, false},
		{"http://127.0.0.1./", false, false, false, false},
		{"http://a_b/", false, false, false, false},
		{"http://user@10.1.1.1/", false, false, false, false},
		{"http://10.1.1.1/#", false, false, false, false},
		{"http://10.1.1.1:0/", false, false, false, false},
		{"http://10.1.1.1:080/", false, false, false, false},
		{"http://example.com:0/", false, false, false, false},
		{"ftp://10.1.1.1/", false, false, false, false},
		{"http://[fe80::1%25eth0]/", false, false, false, false},
	} {
		for i, g := range []*netguard.Guard{inside, loop4, loop6, all} {
			found := g.CheckURL(c.url)
			want := []bool{c.inside, c.loop4, c.loop6, c.all}[i]
			require.Equal(t, want, len(found) == 0, "%s, guard %d: %v", c.url, i, found)
		}
	}
}

var ldh = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.?$`)

func FuzzCheckURL(f *testing.F) {
	for _, c := range cases[urlCase](f, "urls.json") {
		f.Add(c.URL)
	}
	g := newGuard(f, netguard.Policy{})
	lax := newGuard(f, netguard.Policy{AllowPrefixes: prefixes("10.0.0.0/8", "::1/128")})
	f.Fuzz(func(t *testing.T, text string) {
		found := g.CheckURL(text)
		for _, p := range found {
			require.True(t, utf8.ValidString(p.Reason), "%q", p.Reason)
			require.Less(t, len(p.Reason), 600)
			require.Contains(t, []string{netguard.CodeRequired, netguard.CodeFormat, netguard.CodeRange}, p.Code)
		}
		for _, p := range lax.CheckURL(text) {
			require.Less(t, len(p.Reason), 600)
		}
		if len(found) > 0 {
			return
		}
		u, err := url.Parse(text)
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), 2048)
		require.Contains(t, []string{"http", "https"}, u.Scheme)
		require.Nil(t, u.User)
		require.Empty(t, u.Opaque)
		require.Empty(t, u.Fragment)
		require.NotContains(t, text, "#")
		require.NotContains(t, u.Host, "@")
		require.Contains(t, []string{"", "80", "443", "8080", "8443"}, u.Port())
		require.False(t, strings.HasSuffix(u.Host, ":"))
		host := strings.ToLower(u.Hostname())
		require.False(t, slices.ContainsFunc([]byte(host), func(c byte) bool { return c >= 0x80 }))
		if addr, err := netip.ParseAddr(host); err == nil {
			require.True(t, public(addr), "%q", text)
			return
		}
		require.Regexp(t, ldh, host, "%q", text)
		require.NotRegexp(t, `(^|\.)([0-9]+|0x[0-9a-f]*)\.?$`, host, "%q", text)
		require.NotRegexp(t, `(^|\.)(localhost|local|internal|test|onion|arpa)\.?$`, host, "%q", text)
	})
}

// FuzzReasons puts secrets where a URL has its secrets, around a scheme, a host and a port of any kind.
func FuzzReasons(f *testing.F) {
	for _, c := range cases[urlCase](f, "urls.json") {
		scheme, rest, _ := strings.Cut(c.URL, "://")
		host, _, _ := strings.Cut(rest, "/")
		f.Add(scheme, host, "443")
		f.Add("https", host, "x")
	}
	g := newGuard(f, netguard.Policy{})
	lax := newGuard(f, netguard.Policy{AllowPrefixes: prefixes("10.0.0.0/8")})
	f.Fuzz(func(t *testing.T, scheme, host, port string) {
		if strings.Contains(scheme+"\n"+host+"\n"+port, "canary") {
			return
		}
		for _, text := range []string{
			fmt.Sprintf("%s://canary1:canary2@%s:%s/canary3?canary4#canary5", scheme, host, port),
			fmt.Sprintf("%s://canary1/canary2@%s:%s/canary3", scheme, host, port),
			fmt.Sprintf("%s://%s:%s/canary3?q=canary4@canary5", scheme, host, port),
			fmt.Sprintf("%s://%s?canary3#canary4", scheme, host),
		} {
			require.NotContains(t, reasons(g.CheckURL(text)), "canary", "%q", text)
			require.NotContains(t, reasons(lax.CheckURL(text)), "canary", "%q", text)
		}
	})
}

func BenchmarkCheckURL(b *testing.B) {
	g := newGuard(b, netguard.Policy{})
	for b.Loop() {
		if len(g.CheckURL("https://hooks.example.com:8443/in/1?a=b")) > 0 {
			b.Fatal("refused")
		}
	}
}
