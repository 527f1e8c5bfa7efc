package mux

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// benchBlock is how much is written at once, in bytes: what links write (STACK 6).
const benchBlock = 128 << 10

// BenchmarkStream compares a stream of a mux with one of quic-go alone: they must not differ, for
// the mux adds nothing between a stream and its user.
func BenchmarkStream(b *testing.B) {
	b.Run("quic-go", func(b *testing.B) { benchWrites(b, rawStream(b)) })
	b.Run("mux", func(b *testing.B) {
		n1 := start(b, udp(b), "n1")
		n2 := start(b, udp(b), "n2", func(m *Mux) {
			m.Handle(KindLink, func(_ context.Context, _ Peer, c net.Conn) { swallow(c) })
		})
		c, err := n1.Open(within(b, 5*time.Second), "n2", n2.addr, KindLink)
		if err != nil {
			b.Fatal(err)
		}
		benchWrites(b, c)
	})
}

// swallow reads as links do, 64 KiB at a time, to the end.
func swallow(c io.ReadWriteCloser) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			_ = c.Close()
			return
		}
	}
}

func benchWrites(b *testing.B, w io.Writer) {
	block := make([]byte, benchBlock)
	b.SetBytes(benchBlock)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Write(block); err != nil {
			b.Fatal(err)
		}
	}
}

// rawStream is a stream of quic-go between two transports, swallowed at the other end.
func rawStream(b *testing.B) io.Writer {
	server := &quic.Transport{Conn: udp(b)}
	client := &quic.Transport{Conn: udp(b)}
	keys, err := deriveKeys(secret("s"), "n1")
	if err != nil {
		b.Fatal(err)
	}
	cert, pool, err := keys.mint("n1")
	if err != nil {
		b.Fatal(err)
	}
	ln, err := server.Listen(serverTLS(cert, pool), quicConfig())
	if err != nil {
		b.Fatal(err)
	}
	ctx := within(b, 5*time.Second)
	conf := clientTLS(cert, pool)
	conf.NextProtos = []string{classData.alpn()}
	q, err := client.Dial(ctx, server.Conn.LocalAddr(), conf, quicConfig())
	if err != nil {
		b.Fatal(err)
	}
	s, err := q.OpenStream()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Write([]byte{byte(KindLink)}); err != nil {
		b.Fatal(err)
	}
	accepted, err := ln.Accept(ctx)
	if err != nil {
		b.Fatal(err)
	}
	there, err := accepted.AcceptStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		swallow(there)
	}()
	b.Cleanup(func() {
		_ = q.CloseWithError(0, "")
		<-joined
		for _, tr := range []*quic.Transport{client, server} {
			_ = tr.Close()
			_ = tr.Conn.Close()
		}
	})
	return s
}
