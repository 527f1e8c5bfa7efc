package mux

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// The two bytes before every bare packet. The first must have neither of the two highest bits
// set, else quic-go takes the packet for QUIC and it is lost, as memberlist's label header is
// (FAULTS T2).
const (
	packetByte    = 0x01
	packetVersion = 1
	packetHeader  = 2
)

// packetBytesMax is the most a bare packet may carry, in bytes: quic-go reads into buffers of
// 1452 (its protocol.MaxPacketBufferSize) and cuts off the rest.
const packetBytesMax = 1452 - packetHeader

// ringPackets is how many bare packets wait for the handler: a pause of it must fit here, since
// quic-go holds 32 and drops silently (FAULTS T3). At most 6 MiB.
const ringPackets = 4096

// packet is a bare packet without our two bytes.
type packet struct {
	b    []byte
	from net.Addr
}

// Send sends a bare packet of at most 1450 bytes to ip:port. Like UDP it promises nothing.
func (m *Mux) Send(b []byte, addr string) error {
	if len(b) > packetBytesMax {
		return fmt.Errorf("send packet to %s: %d bytes, at most %d fit", addr, len(b), packetBytesMax)
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("send packet to %q: the address must be ip:port: %w", addr, err)
	}
	select {
	case <-m.done:
		return ErrClosed
	default:
	}
	wrapped := append(make([]byte, 0, packetHeader+len(b)), packetByte, packetVersion)
	if _, err := m.tr.WriteTo(append(wrapped, b...), net.UDPAddrFromAddrPort(to)); err != nil {
		return fmt.Errorf("send packet to %s: %w", addr, err)
	}
	return nil
}

// Dropped counts packets that were lost here because something did not keep up with them.
func (m *Mux) Dropped() uint64 { return m.dropped.Load() }

// Foreign counts bare packets that were not ours.
func (m *Mux) Foreign() uint64 { return m.foreign.Load() }

// isQUIC reports whether quic-go takes a packet with this first byte for its own (RFC 9443).
func isQUIC(first byte) bool { return first&0xc0 != 0 }

// readPackets moves bare packets from quic-go's short queue to the ring, where the socket does not
// do so before quic-go sees them (coalesce). It must not do anything else, and there must be one
// only (quic-go's first call is not safe beside a second).
func (m *Mux) readPackets(ctx context.Context) {
	buf := make([]byte, packetHeader+packetBytesMax)
	for {
		n, from, err := m.tr.ReadNonQUICPacket(ctx, buf)
		if err != nil {
			return // ctx is done or the transport closed, which accept reports
		}
		m.arrived(buf[:n], from)
	}
}

// arrived puts a copy of a bare packet into the ring; it never waits.
func (m *Mux) arrived(b []byte, from net.Addr) {
	if len(b) < packetHeader || len(b) > packetHeader+packetBytesMax || b[0] != packetByte || b[1] != packetVersion {
		m.foreign.Add(1)
		return
	}
	select {
	case m.ring <- packet{append([]byte(nil), b[packetHeader:]...), from}:
	default:
		m.dropped.Add(1)
	}
}

// handlePackets hands the ring's packets to the handler.
func (m *Mux) handlePackets(ctx context.Context) {
	for {
		select {
		case p := <-m.ring:
			m.packets(p.b, p.from)
		case <-ctx.Done():
			return
		}
	}
}

// dropCounter counts what quic-go's transport drops because a queue is full.
type dropCounter struct {
	dropped interface{ Add(uint64) uint64 }
}

// RecordEvent implements qlogwriter.Recorder.
func (d dropCounter) RecordEvent(e qlogwriter.Event) {
	if p, ok := e.(qlog.PacketDropped); ok && p.Trigger == qlog.PacketDropDOSPrevention {
		d.dropped.Add(1)
	}
}

// Close implements qlogwriter.Recorder.
func (d dropCounter) Close() error { return nil }
