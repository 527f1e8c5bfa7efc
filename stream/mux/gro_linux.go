package mux

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// coalescedBytesMax is the most that the kernel makes of several packets, in bytes: what one
	// of IP may hold.
	coalescedBytesMax = 1<<16 - 1
	// controlBytesMax bounds what comes with them, in bytes: their size, TOS and the address they
	// were sent to take 88. quic-go has room for as much.
	controlBytesMax = 128
)

// groConn is a UDP socket on which the kernel coalesces packets of one sender (UDP_GRO, udp(7)).
// It gives quic-go the packets one by one, by the hook that quic-go has for batches, so that some
// sixteen of them share a system call and a way through the kernel. Bare packets do not get that
// far, so that none is lost in quic-go's short queue. All else is the UDPConn's: quic-go must
// find it, or there is no GSO and no ECN.
type groConn struct {
	*net.UDPConn
	bare func(b []byte, from net.Addr) // b is lent

	// These are of the one goroutine that reads.
	buf     []byte
	control []byte
	rest    []byte       // packets that are still to be given: a part of buf
	size    int          // of each of them but the last, in bytes
	n       int          // bytes in control, which are of all of them
	from    *net.UDPAddr // of addr; quic-go keeps it, nobody changes it
	addr    netip.AddrPort
}

// coalesce returns a conn that reads several packets at once where conn and the kernel can, and
// hands bare ones to bare; else it returns conn.
func coalesce(conn net.PacketConn, bare func(b []byte, from net.Addr)) net.PacketConn {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return conn
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return conn
	}
	var refused error // by a kernel before 5.0
	err = raw.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) })
	if err != nil || refused != nil {
		return conn
	}
	return &groConn{UDPConn: udp, bare: bare, buf: make([]byte, coalescedBytesMax), control: make([]byte, controlBytesMax)}
}

// ReadBatch fills some of ms, one at least; quic-go calls it, without flags.
func (c *groConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	n := 0
	for n == 0 {
		if len(c.rest) == 0 {
			if err := c.read(); err != nil {
				return 0, err
			}
		}
		for len(c.rest) > 0 && n < len(ms) {
			packet := c.rest[:min(c.size, len(c.rest))]
			c.rest = c.rest[len(packet):]
			if !isQUIC(packet[0]) {
				c.bare(packet, c.from)
				continue
			}
			m := &ms[n]
			m.N = copy(m.Buffers[0], packet) // what is larger than quic-go reads is cut off, as by the kernel
			m.NN = copy(m.OOB, c.control[:c.n])
			m.Addr = c.from
			n++
		}
	}
	return n, nil
}

// read waits for packets.
func (c *groConn) read() error {
	n, oobn, _, addr, err := c.ReadMsgUDPAddrPort(c.buf, c.control)
	if err != nil {
		return err
	}
	if addr != c.addr {
		c.addr, c.from = addr, net.UDPAddrFromAddrPort(addr)
	}
	c.rest, c.size, c.n = c.buf[:n], n, oobn // one packet, unless told otherwise
	for left := c.control[:oobn]; len(left) > 0; {
		head, body, more, err := unix.ParseOneSocketControlMessage(left)
		if err != nil {
			return nil // quic-go reads them as well, and says so
		}
		if head.Level == unix.SOL_UDP && head.Type == unix.UDP_GRO && len(body) >= 4 {
			c.size = max(1, int(binary.NativeEndian.Uint32(body)))
		}
		left = more
	}
	return nil
}
