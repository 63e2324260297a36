package netguard_test

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/internal/netguard"
)

func BenchmarkControl(b *testing.B) {
	g := newGuard(b, netguard.Policy{})
	for _, address := range []string{"93.184.216.34:443", "[2606:4700:4700::1111]:443"} {
		b.Run(address, func(b *testing.B) {
			for b.Loop() {
				if err := g.Control("tcp6", address, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDial compares with the yardstick, net.Dialer, for a literal address and for a name.
func BenchmarkDial(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(b, err)
	_, resolver := newNameServer(b, func(string, int) answer { return answer{addrs: addrs("127.0.0.1")} })
	g := newGuard(b, netguard.Policy{AllowPrefixes: prefixes("127.0.0.0/8")})
	g.Resolver = resolver
	plain := &net.Dialer{Resolver: resolver, Timeout: netguard.DialTime}
	for _, host := range []string{"127.0.0.1", "hook.example.com"} {
		for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
			"guard": g.DialContext, "net.Dialer": plain.DialContext,
		} {
			b.Run(host+"/"+name, func(b *testing.B) {
				for b.Loop() {
					conn, err := dial(b.Context(), "tcp", net.JoinHostPort(host, port))
					if err != nil {
						b.Fatal(err)
					}
					_ = conn.(*net.TCPConn).SetLinger(0)
					_ = conn.Close()
				}
			})
		}
	}
}
