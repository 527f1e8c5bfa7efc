package mux

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// ect0 is the ECN mark that quic-go sends with (RFC 3168).
const ect0 = 2

// control is a control message with a number.
func control[T uint8 | uint16 | int32](level, kind int32, v T) []byte {
	size := int(unsafe.Sizeof(v))
	b := make([]byte, unix.CmsgSpace(size))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	*(*T)(unsafe.Pointer(&b[unix.CmsgLen(0)])) = v
	return b
}

func dialUDP(t *testing.T, to *net.UDPAddr) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// messages is what quic-go reads into.
func messages(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1452)}, OOB: make([]byte, 128)}
	}
	return ms
}

// tos is the TOS or traffic class that came with a packet, -1 for none.
func tos(t *testing.T, m ipv4.Message) int {
	t.Helper()
	all, err := unix.ParseSocketControlMessage(m.OOB[:m.NN])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		switch {
		case c.Header.Level == unix.IPPROTO_IP && c.Header.Type == unix.IP_TOS:
			return int(c.Data[0])
		case c.Header.Level == unix.IPPROTO_IPV6 && c.Header.Type == unix.IPV6_TCLASS:
			return int(binary.NativeEndian.Uint32(c.Data))
		}
	}
	return -1
}

// What one write sent as many packets comes in one read and leaves packet by packet, with its
// sender and its ECN mark; bare packets among them go their own way.
func TestCoalesced(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(listen, func(t *testing.T) {
			addr, err := net.ResolveUDPAddr("udp", listen)
			if err != nil {
				t.Fatal(err)
			}
			udp, err := net.ListenUDP("udp", addr)
			if err != nil {
				t.Skip("no such address here: ", err)
			}
			defer udp.Close()
			var bare []string
			c, ok := coalesce(udp, func(b []byte, from net.Addr) {
				bare = append(bare, fmt.Sprintf("%d bytes from %s", len(b), from))
			}).(*groConn)
			if !ok {
				t.Skip("this kernel has no UDP_GRO")
			}
			raw, err := udp.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) { // as quic-go does; one of them fails
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
			}); err != nil {
				t.Fatal(err)
			}

			to := udp.LocalAddr().(*net.UDPAddr)
			ecn := control(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int32(ect0))
			if to.IP.IsUnspecified() {
				to.IP = net.IPv4(127, 0, 0, 1)
			}
			if to.IP.To4() != nil {
				ecn = control(unix.IPPROTO_IP, unix.IP_TOS, uint8(ect0))
			}
			from, other := dialUDP(t, to), dialUDP(t, to)
			const size, count, last = 1000, 20, 300
			sent := make([]byte, (count-1)*size+last)
			for i := range sent {
				sent[i] = byte(i / size)
				if i%size == 0 && i/size != 3 { // packet 3 is bare
					sent[i] |= 0x40
				}
			}
			oob := append(control(unix.SOL_UDP, unix.UDP_SEGMENT, uint16(size)), ecn...)
			if _, _, err := from.WriteMsgUDP(sent, oob, nil); err != nil {
				t.Skip("this kernel has no UDP_SEGMENT: ", err)
			}
			if _, err := other.Write([]byte("@alone")); err != nil {
				t.Fatal(err)
			}
			checkCoalesced(t, c, from.LocalAddr(), other.LocalAddr(), sent, size)
			if want := fmt.Sprintf("[%d bytes from %s]", size, from.LocalAddr()); fmt.Sprint(bare) != want {
				t.Errorf("bare packets: %s, want %s", bare, want)
			}
		})
	}
}

// checkCoalesced reads what TestCoalesced sent.
func checkCoalesced(t *testing.T, c *groConn, from, other net.Addr, sent []byte, size int) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ms := messages(8)
	var got [][]byte
	for reads := 0; len(got) < 20; reads++ {
		n, err := c.ReadBatch(ms, 0)
		if err != nil {
			t.Fatalf("after %d packets: %v", len(got), err)
		}
		if reads == 0 && len(c.rest) == 0 {
			t.Error("the kernel coalesced nothing")
		}
		for _, m := range ms[:n] {
			wantFrom, wantMark := from, ect0
			if len(got) == 19 {
				wantFrom, wantMark = other, 0
			}
			if m.Addr.String() != wantFrom.String() {
				t.Errorf("packet %d is from %s, want %s", len(got), m.Addr, wantFrom)
			}
			if mark := tos(t, m); mark != wantMark {
				t.Errorf("packet %d is marked %d, want %d", len(got), mark, wantMark)
			}
			got = append(got, bytes.Clone(m.Buffers[0][:m.N]))
		}
	}
	if alone := got[19]; string(alone) != "@alone" {
		t.Errorf("the last packet is %q", alone)
	}
	bare := sent[3*size : 4*size]
	if all := bytes.Join(got[:19], nil); !bytes.Equal(all, bytes.Replace(sent, bare, nil, 1)) {
		t.Error("the packets are not what was sent")
	}
	for i, p := range got[:18] {
		if len(p) != size {
			t.Errorf("packet %d has %d bytes, want %d", i, len(p), size)
		}
	}
}

// An empty packet, and one larger than quic-go's buffers, harm nobody.
func TestCoalescedOdd(t *testing.T) {
	udp := udp(t)
	defer udp.Close()
	c := coalesce(udp, func([]byte, net.Addr) {})
	from := dialUDP(t, udp.LocalAddr().(*net.UDPAddr))
	for _, b := range [][]byte{nil, bytes.Repeat([]byte{0x40}, 9000), []byte("@after")} {
		if _, err := from.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	g, ok := c.(*groConn)
	if !ok {
		t.Skip("this kernel has no UDP_GRO")
	}
	if err := g.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	ms := messages(1)
	for _, want := range []int{1452, len("@after")} {
		if n, err := g.ReadBatch(ms, 0); n != 1 || err != nil || ms[0].N != want {
			t.Fatalf("read %d packets, of %d bytes, %v; want one of %d", n, ms[0].N, err, want)
		}
	}
	if err := g.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, err := g.ReadBatch(ms, 0); n != 0 || !os.IsTimeout(err) {
		t.Errorf("after the deadline: %d packets, %v", n, err)
	}
}

// What is no UDP socket, or none any more, stays as it is.
func TestCoalesceOnlySockets(t *testing.T) {
	mem := newMemnet().listen("10.0.0.1:1")
	if c := coalesce(mem, nil); c != net.PacketConn(mem) {
		t.Errorf("a socket in memory became a %T", c)
	}
	shut := udp(t)
	shut.Close()
	if c := coalesce(shut, nil); c != net.PacketConn(shut) {
		t.Errorf("a closed socket became a %T", c)
	}
}
