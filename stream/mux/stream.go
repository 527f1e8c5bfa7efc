package mux

import (
	"net"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// stream is a QUIC stream as a net.Conn. Its deadlines are quic.Stream's.
type stream struct {
	*quic.Stream
	c    *conn
	ours bool // opened here

	writing atomic.Int32
	closed  atomic.Bool
}

func newStream(c *conn, q *quic.Stream, ours bool) *stream {
	c.active.Add(1)
	return &stream{Stream: q, c: c, ours: ours}
}

// Read may return bytes and io.EOF together.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err != nil {
		err = streamError(err)
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	s.writing.Add(1)
	defer s.writing.Add(-1)
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := s.Stream.Write(p)
	if err != nil {
		err = streamError(err)
	}
	return n, err
}

// Close ends the writing side, delivering what was written, and cancels the reading side. If a
// Write is blocked, what it has written so far would look whole: then the peer gets a reset.
func (s *stream) Close() error {
	if !s.end() {
		return nil
	}
	s.CancelRead(streamClosed)
	if s.writing.Load() > 0 {
		s.CancelWrite(streamReset)
		return nil
	}
	return streamError(s.Stream.Close())
}

// Reset drops both sides; what was written may not arrive.
func (s *stream) Reset() { s.reset(streamReset) }

func (s *stream) reset(code quic.StreamErrorCode) {
	if s.end() {
		s.CancelRead(code)
		s.CancelWrite(code)
	}
}

// end gives the stream's places back; only the first call returns true.
func (s *stream) end() bool {
	if s.closed.Swap(true) {
		return false
	}
	s.c.active.Add(-1)
	if s.ours {
		s.c.opened.Add(-1)
	}
	return true
}

func (s *stream) LocalAddr() net.Addr  { return s.c.q.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.c.q.RemoteAddr() }

// local is one end of the pair between two roles of one node.
type local struct{ net.Conn }

// Reset is Close: a pipe holds nothing that could be delivered later.
func (l local) Reset() { _ = l.Close() }
