package netguard

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxURL = 2048

// CheckURL returns every problem of a URL's text, and none if it may be stored. It looks nothing up.
//
// Literal addresses are judged as a dial would judge them. Of a name the address is only known at the dial, so that
// with AllowPrefixes a name may have any port, one label, or an ending for inner networks: the dial then allows what
// AllowPrefixes covers, and nothing else. localhost and names below it need a loopback address in AllowPrefixes.
//
// The reasons hold no more of the text than scheme, host and port: path, query and user often carry secrets.
func (g *Guard) CheckURL(text string) []Problem {
	var found problems
	switch {
	case text == "":
		found.add("", CodeRequired, "is empty, want %s with a host", g.schemes())
		return found
	case len(text) > maxURL:
		found.add("", CodeRange, "is %d bytes, want at most %d", len(text), maxURL)
		return found
	case !utf8.ValidString(text) || strings.ContainsFunc(text, breaks):
		// What splits a URL differently for different readers: nothing after it can be relied on.
		found.add("", CodeFormat, "holds a space, a backslash or a control character, want a URL without")
		return found
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || !isScheme(scheme) {
		found.add("", CodeFormat, "does not begin with a scheme and a host, want %s with a host", g.schemes())
		return found
	}
	scheme = lower(scheme)
	if scheme != "https" && (scheme != "http" || g.https) {
		found.add("", CodeFormat, "has the scheme %s, want %s", quote(scheme), g.schemes())
	}
	end := strings.IndexAny(rest+"/", "/?#")
	authority := rest[:end]
	if strings.Contains(rest[end:], "#") {
		found.add("", CodeFormat, "has a fragment, want none")
	}
	hostport := authority[strings.LastIndexByte(authority, '@')+1:]
	if hostport != authority {
		found.add("", CodeFormat, "has a user, want none: use a header for credentials")
	}
	// With an @ anywhere, what looks like host and port may be the half of a password.
	g.checkHostPort(&found, scheme, hostport, !strings.Contains(text, "@"))
	if len(found) == 0 && !agrees(text, scheme, authority) {
		found.add("", CodeFormat, "does not parse as a URL, want every %% followed by two hex digits")
	}
	return found
}

func (g *Guard) schemes() string {
	if g.https {
		return "https"
	}
	return "http or https"
}

func breaks(r rune) bool { return r == '\\' || unicode.IsControl(r) || unicode.IsSpace(r) }

func isScheme(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	s = lower(s)
	return s != "" && strings.IndexByte(letters, s[0]) >= 0 && strings.Trim(s, letters+"0123456789+-.") == ""
}

// agrees reports whether net/url, which the sender relies on, takes the text apart in the same way.
func agrees(text, scheme, authority string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == scheme && u.Host == authority && u.User == nil && u.Opaque == "" && u.Fragment == ""
}

func (g *Guard) checkHostPort(found *problems, scheme, hostport string, show bool) {
	host, port, hasPort := hostport, "", false
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && !strings.Contains(hostport[i:], "]") {
		host, port, hasPort = hostport[:i], hostport[i+1:], true
	}
	subject := "a host that is not shown"
	if show {
		subject = "the host " + quote(host)
	}
	addr, isAddr := g.checkHost(found, host, subject)
	allowed := isAddr && addr.Zone() == "" && contain(g.allow, addr.Unmap()) || !isAddr && len(g.allow) > 0
	g.checkPort(found, scheme, port, hasPort, allowed, show)
}

// checkHost returns the address that the host is, if it is one.
func (g *Guard) checkHost(found *problems, host, subject string) (netip.Addr, bool) {
	bracketed := strings.HasPrefix(host, "[")
	text := host
	if bracketed {
		text = strings.TrimSuffix(host[1:], "]")
	}
	addr, err := netip.ParseAddr(text)
	isAddr := err == nil
	switch {
	case host == "":
		found.add("", CodeFormat, "has no host, want %s with a host", g.schemes())
	case bracketed && (!isAddr || addr.Is4() || len(text) != len(host)-2):
		found.add("", CodeFormat, "has %s, want an IPv6 address in the brackets", subject)
	case !bracketed && (isAddr && addr.Is6() || strings.Contains(host, ":")):
		found.add("", CodeFormat, "has %s, want an IPv6 address in brackets, or one port", subject)
	case isAddr:
		if rule, _ := g.judge(addr); rule != "" {
			found.add("", CodeRange, "has %s, %s; want a public address", subject, rule)
		}
	case strings.Contains(host, "%"):
		found.add("", CodeFormat, "has %s, want no %% in it", subject)
	default:
		if kind, reason := g.judgeName(host); kind == nameRefused {
			found.add("", CodeFormat, "has %s, %s", subject, reason)
		}
	}
	return addr, isAddr
}

// checkPort judges a port, or what the scheme stands for. With any set, only the dial can tell.
func (g *Guard) checkPort(found *problems, scheme, text string, has, anyPort, show bool) {
	if !has {
		text = map[string]string{"http": "80", "https": "443"}[scheme]
		if text == "" {
			return // the scheme is a problem already
		}
	}
	subject := "a port that is not shown"
	if show && digits(text) {
		subject = "the port " + quote(text)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case text == "":
		found.add("", CodeRange, "has an empty port, want 1 to 65535 or no colon")
	case !digits(text) || err != nil || text[0] == '0':
		found.add("", CodeRange, "has %s, want 1 to 65535 without leading zeros, or none", subject)
	case !anyPort && !slices.Contains(g.ports, uint16(n)):
		found.add("", CodeRange, "has %s, want %s", subject, oneOf(g.ports))
	}
}

// oneOf names the ports, or the first few of them.
func oneOf(ports []uint16) string {
	const most = 16
	texts := make([]string, 0, most+1)
	for i, port := range ports {
		if i == most {
			texts = append(texts, fmt.Sprintf("or one of %d others", len(ports)-most))
			break
		}
		texts = append(texts, strconv.Itoa(int(port)))
	}
	if len(texts) == 1 {
		return texts[0]
	}
	return "one of " + strings.Join(texts, ", ")
}

// quote shows a value in a reason: cut, so that a hostile value cannot flood a log.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q... (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}
