package netguard

import (
	"slices"
	"strings"
)

const (
	maxName  = 253
	maxLabel = 63
)

// inner are endings that have no meaning on the internet. Some resolve to this machine or its network, some leak to
// whoever answers for them.
//
// From IANA's Special-Use Domain Names (arpa stands for home.arpa, in-addr.arpa, ip6.arpa and the like; example is not
// here, since it harms nobody), then internal, which ICANN reserved, then what RFC 6762, appendix G, found in use.
var inner = []string{
	"alt", "arpa", "invalid", "local", "localhost", "onion", "test",
	"internal",
	"corp", "home", "intranet", "lan", "private",
	"localdomain",
}

// name is what the rules say about the name of a host.
type name uint8

const (
	namePublic  name = iota
	nameInner        // means something in AllowPrefixes at most
	nameRefused      // means nothing good anywhere
)

// judgeName applies the rules for names, and says what is wrong as the end of a sentence: the name, then the reason.
// The URL check and the dial share it.
func (g *Guard) judgeName(host string) (name, string) {
	host = bare(host)
	if !isName(host) {
		return nameRefused, "want labels of a-z, 0-9 and inner hyphens with dots between; other letters in their xn-- form"
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if isNumber(last) {
		// Resolvers of the C library read 127.1, 0x7f000001 and the like as addresses.
		return nameRefused, "want a name, or an address of four decimal numbers"
	}
	switch {
	case isLocalhost(host):
		if g.loopback {
			return nameInner, ""
		}
		return nameRefused, "which is this machine, want a public name"
	case last == host:
		if len(g.allow) > 0 {
			return nameInner, ""
		}
		return nameRefused, "want a full name with a dot"
	case slices.Contains(inner, last):
		if len(g.allow) > 0 {
			return nameInner, ""
		}
		return nameRefused, "want a public name: ." + last + " is for inner networks or special uses"
	}
	return namePublic, ""
}

// isLocalhost reports whether a bare name is localhost, or below it.
func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// bare returns the name in lower case, without the dot that makes it absolute.
func bare(host string) string { return strings.TrimSuffix(lower(host), ".") }

// lower knows ASCII only. For strings.ToLower the Kelvin sign is a k too, and would pass for one.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// isName reports whether host is made of labels that every resolver takes as they are.
func isName(host string) bool {
	if len(host) > maxName {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// isNumber reports whether a name that ends in the label could be read as an address: no public name ends so.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return digits(label)
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
