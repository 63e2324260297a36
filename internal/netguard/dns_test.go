package netguard_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Types and codes of DNS, RFC 1035 and 3596.
const (
	typeA     = 1
	typeCNAME = 5
	typeAAAA  = 28

	rcodeFailure = 2
	rcodeNoName  = 3
)

// answer is what the name server says about a name.
type answer struct {
	alias string // a CNAME that the addresses belong to
	addrs []netip.Addr
	rcode byte
	none  bool // no answer at all
}

// nameServer is a name server on loopback, over UDP and TCP.
type nameServer struct {
	answer func(name string, asked int) answer // asked counts the questions of the same name and type, from 0

	mu    sync.Mutex
	asked map[string]int
	tcp   int // questions over TCP
}

// newNameServer returns a server, and a resolver that asks it and nobody else.
func newNameServer(t testing.TB, say func(name string, asked int) answer) (*nameServer, *net.Resolver) {
	t.Helper()
	s := &nameServer{answer: say, asked: make(map[string]int)}
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	streams, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var work sync.WaitGroup
	work.Go(func() { s.servePackets(packets) })
	work.Go(func() { s.serveStreams(streams) })
	t.Cleanup(func() {
		_ = packets.Close()
		_ = streams.Close()
		work.Wait()
	})
	return s, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		to := packets.LocalAddr() // the two need not have the same port
		if network == "tcp" {
			to = streams.Addr()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}}
}

func (s *nameServer) servePackets(conn net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		reply := s.reply(buf[:n])
		if len(reply) > 512 { // the resolver asks again over TCP
			reply = reply[:questionEnd(reply)]
			reply[2] |= 2 // TC
			clear(reply[6:12])
		}
		if reply != nil {
			_, _ = conn.WriteTo(reply, from)
		}
	}
}

func (s *nameServer) serveStreams(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.serveStream(conn)
	}
}

func (s *nameServer) serveStream(conn net.Conn) {
	defer conn.Close()
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return
	}
	question := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, question); err != nil {
		return
	}
	s.mu.Lock()
	s.tcp++
	s.mu.Unlock()
	reply := s.reply(question)
	_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
}

// names returns the names that were asked for.
func (s *nameServer) names() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.asked {
		list = append(list, key[1:])
	}
	return list
}

// streams returns how many questions came over TCP.
func (s *nameServer) streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tcp
}

// reply answers one question. A question over TCP after a cut answer is the same question again.
func (s *nameServer) reply(question []byte) []byte {
	end := questionEnd(question)
	if end == 0 {
		return nil
	}
	var labels []string
	for i := 12; question[i] != 0; i += 1 + int(question[i]) {
		labels = append(labels, string(question[i+1:i+1+int(question[i])]))
	}
	name := strings.Join(labels, ".") + "."
	qtype := binary.BigEndian.Uint16(question[end-4:])

	s.mu.Lock()
	key := string(rune(qtype)) + name
	asked := s.asked[key]
	s.asked[key]++
	s.mu.Unlock()
	say := s.answer(name, asked)
	if say.none {
		return nil
	}

	reply := append([]byte{}, question[:end]...)
	reply[2], reply[3] = 0x84, 0x80|say.rcode // an authoritative answer, recursion available
	clear(reply[6:12])
	owner := []byte{0xc0, 12} // the name of the question
	count := uint16(0)
	record := func(kind uint16, data []byte) {
		reply = append(reply, owner...)
		reply = binary.BigEndian.AppendUint16(reply, kind)
		reply = append(reply, 0, 1, 0, 0, 0, 0) // IN, TTL 0
		reply = binary.BigEndian.AppendUint16(reply, uint16(len(data)))
		reply = append(reply, data...)
		count++
	}
	if say.alias != "" {
		var target []byte
		for label := range strings.SplitSeq(strings.TrimSuffix(say.alias, "."), ".") {
			target = append(append(target, byte(len(label))), label...)
		}
		target = append(target, 0)
		record(typeCNAME, target)
		owner = target
	}
	for _, addr := range say.addrs {
		if addr.Is4() && qtype == typeA {
			record(typeA, addr.AsSlice())
		}
		if addr.Is6() && qtype == typeAAAA {
			record(typeAAAA, addr.AsSlice())
		}
	}
	binary.BigEndian.PutUint16(reply[6:], count)
	return reply
}

// questionEnd returns where the one question of a message ends, or 0.
func questionEnd(message []byte) int {
	i := 12
	for i < len(message) && message[i] != 0 {
		i += 1 + int(message[i])
	}
	if i+5 > len(message) {
		return 0
	}
	return i + 5
}

func addrs(texts ...string) []netip.Addr {
	list := make([]netip.Addr, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParseAddr(text)
	}
	return list
}
