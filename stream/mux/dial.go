package mux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"weir/topology"
)

// handshakesMax and handshakesTrusted bound the handshakes of peers under way: above the first
// strangers are refused, above the second they must first show that their address is theirs,
// which costs them a round trip and us nothing (FAULTS section 4).
const (
	handshakesMax     = 128
	handshakesTrusted = 32
)

// greetingsMax is how many accepted connections may be at their HELLO at once. All have shown a
// certificate of the cluster; more than quic-go's queue of 32 wait there or are refused.
const greetingsMax = 64

// open opens a stream over a live connection or a new one, and over the next of the class if the
// first is full.
func (m *Mux) open(ctx context.Context, id topology.NodeID, addr string, k Kind) (*stream, error) {
	to := target{id: id, addr: addr, class: k.class()}
	for retried := false; ; {
		c, err := m.connect(ctx, to)
		if err != nil {
			return nil, err
		}
		s, err := c.open(ctx, k)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, errFull):
			if to.index++; to.index == indexMax {
				return nil, ErrTooManyLinks
			}
			to.id = c.peer.ID
		case errors.Is(err, ErrLost) && !retried: // it died between our look and our use
			retried = true
			select {
			case <-c.q.Context().Done(): // its streams hear of that a little earlier
			case <-ctx.Done():
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// connect returns a live connection, dialling where there is none; who asks for one that is being
// dialled waits for that dial.
func (m *Mux) connect(ctx context.Context, to target) (*conn, error) {
	for {
		c, d, mine := m.table.begin(to)
		if c != nil {
			return c, nil
		}
		if mine {
			err := m.post(ctx, func(ctx context.Context) {
				c, err := m.dial(ctx, to)
				m.table.end(to, d, c, err)
			})
			if err != nil {
				m.table.end(to, d, nil, errAbandoned)
				return nil, err
			}
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		switch {
		case d.err == nil:
			return d.c, nil
		case errors.Is(d.err, errAbandoned):
			continue
		}
		if c := m.table.find(to); c != nil { // the peer has dialled us meanwhile
			return c, nil
		}
		return nil, d.err
	}
}

// dial makes a connection and gives it its place; what it returns may be another one that won it.
func (m *Mux) dial(ctx context.Context, to target) (*conn, error) {
	addr, err := lookUp(ctx, to.addr)
	if err != nil {
		return nil, err
	}
	conf := m.client.Clone()
	conf.NextProtos = []string{to.class.alpn()}
	dialCtx, cancel := context.WithTimeout(ctx, handshakeMax)
	defer cancel()
	q, err := m.tr.Dial(dialCtx, addr, conf, m.quicConfigFor(addr))
	if err != nil && ctx.Err() != nil {
		return nil, ErrClosed
	}
	if err != nil {
		err = dialError(err)
		if errors.Is(err, ErrOtherCluster) {
			err = fmt.Errorf("%w, cluster %s here", err, m.ClusterID())
		}
		m.turnedAway(addr.String(), err)
		return nil, err
	}
	c, err := m.greet(ctx, q, to)
	if err == nil {
		err = m.register(ctx, c)
	}
	if err != nil {
		m.turnedAway(addr.String(), err)
		_ = q.CloseWithError(refusal(err), err.Error())
		return nil, err
	}
	if won := m.table.find(target{id: c.peer.ID, class: to.class, index: to.index}); won != nil {
		return won, nil
	}
	return c, nil
}

// greet is the dialler's side of the HELLO.
func (m *Mux) greet(ctx context.Context, q *quic.Conn, to target) (*conn, error) {
	certified, cert, err := whose(q.ConnectionState().TLS)
	switch {
	case err != nil:
		return nil, err
	case certified == m.cfg.ID && m.ours(cert):
		return nil, errSelf
	case to.id != "" && certified != to.id:
		return nil, fmt.Errorf("%w: %s", ErrNotPeer, certified)
	}
	s, err := q.OpenStream()
	if err != nil {
		return nil, dialError(err)
	}
	_ = s.SetDeadline(time.Now().Add(helloMax))
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ours := m.hello(to.index, m.serial.Add(1))
	if _, err := s.Write(ours.append([]byte{byte(KindHello)})); err != nil {
		return nil, dialError(err)
	}
	_ = s.Close()
	theirs, err := readHello(s)
	s.CancelRead(streamClosed)
	if err != nil {
		return nil, dialError(err)
	}
	if err := match(ours, theirs, certified); err != nil {
		return nil, err
	}
	return newConn(q, theirs, to.class, ours.serial, to.addr), nil
}

// accept takes connections until ctx is done (nil) or the socket fails.
func (m *Mux) accept(ctx context.Context, ln *quic.Listener) error {
	places := make(chan struct{}, greetingsMax) // a semaphore
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		q, err := ln.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", m.cfg.Conn.LocalAddr(), err)
		}
		m.group.Go(func() { // ends after helloMax at the latest
			defer func() { <-places }()
			m.welcome(ctx, q)
		})
	}
}

// welcome is the acceptor's side of the HELLO; it closes what it does not register.
func (m *Mux) welcome(ctx context.Context, q *quic.Conn) {
	if done, ok := q.Context().Value(handshake{}).(func()); ok {
		done()
	}
	err := m.answer(ctx, q)
	switch e, remote := errors.AsType[*quic.ApplicationError](err); {
	case err == nil:
		return
	case ctx.Err() != nil:
		_ = q.CloseWithError(codeBye, "the node stops")
		return
	case remote && e.Remote:
		m.cfg.Log.Debug("connection closed before its HELLO", "addr", q.RemoteAddr().String(), "err", err)
	default:
		m.refused(q.RemoteAddr().String(), err)
	}
	_ = q.CloseWithError(refusal(err), err.Error())
}

func (m *Mux) answer(ctx context.Context, q *quic.Conn) error {
	ctxHello, cancel := context.WithTimeout(ctx, helloMax)
	defer cancel()
	s, err := q.AcceptStream(ctxHello)
	if err != nil {
		return helloError(err)
	}
	_ = s.SetDeadline(time.Now().Add(helloMax))
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var kind [1]byte
	if _, err := s.Read(kind[:]); err != nil {
		return helloError(err)
	}
	if Kind(kind[0]) != KindHello {
		return fmt.Errorf("%w: the first stream has kind %d", ErrProtocol, kind[0])
	}
	theirs, err := readHello(s)
	if err != nil {
		return helloError(err)
	}
	state := q.ConnectionState().TLS
	certified, _, err := whose(state)
	if err != nil {
		return err
	}
	ours := m.hello(theirs.index, theirs.serial)
	if err := match(ours, theirs, certified); err != nil {
		return err
	}
	cl := classData
	if state.NegotiatedProtocol == classCtl.alpn() {
		cl = classCtl
	}
	c := newConn(q, theirs, cl, theirs.serial, "")
	// The answer comes after the place: when the dialler has it, both know of the connection.
	if err := m.register(ctx, c); err != nil {
		return err
	}
	if _, err := s.Write(ours.append(nil)); err != nil {
		return helloError(err)
	}
	s.CancelRead(streamClosed)
	_ = s.Close() // an error says that the dialler has read the answer, and wants no more
	return nil
}

// newConn is a connection as the peer's HELLO describes it; dialled is "" if the peer dialled.
func newConn(q *quic.Conn, theirs hello, cl class, serial uint64, dialled string) *conn {
	return &conn{
		q:       q,
		place:   place{theirs.id, cl, theirs.index},
		peer:    Peer{ID: theirs.id, Boot: theirs.boot, Addr: q.RemoteAddr().String(), Epoch: theirs.epoch},
		ours:    dialled != "",
		serial:  serial,
		dialled: dialled,
		beaten:  make(chan struct{}, 1),
	}
}

// register gives a connection its place and serves it; the one that lost is closed or drained.
func (m *Mux) register(ctx context.Context, c *conn) error {
	closing, draining, err := m.table.add(c)
	if err != nil {
		return err
	}
	for _, earlier := range closing {
		m.sometimes("a later start of a peer connects")
		earlier.close(codeSuperseded, "a later start of this node connected")
	}
	if draining != nil {
		m.sometimes("two nodes dial each other at once")
		m.group.Go(func() { draining.drain(ctx) }) // ends with its connection or ctx
	}
	m.group.Go(func() { m.serve(ctx, c) }) // ends with the connection
	return nil
}

// lookUp resolves host:port, IPv4 first.
func lookUp(ctx context.Context, addr string) (*net.UDPAddr, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return net.UDPAddrFromAddrPort(ap), nil
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%q is not host:port: %w", addr, err)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return nil, fmt.Errorf("%q names no host", addr)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	ip := ips[0] // there is one, or an error
	for _, other := range ips {
		if other.Unmap().Is4() {
			ip = other
			break
		}
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip.Unmap(), uint16(port))), nil
}

// handshake is the key under which a stranger's connection carries the end of its handshake:
// quic-go gives no other way to pass it.
type handshake struct{}

// countHandshake counts a stranger's handshake until it is accepted or gone. One that fails is
// nowhere else to be seen.
func (m *Mux) countHandshake(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	if m.pending.Add(1) > handshakesMax {
		m.pending.Add(-1)
		return nil, errors.New("too many handshakes at once")
	}
	done := sync.OnceFunc(func() { m.pending.Add(-1) })
	stop := context.AfterFunc(ctx, func() {
		done()
		if err := dialError(context.Cause(ctx)); reasonOf(err) != nil {
			m.refused(info.RemoteAddr.String(), err)
		}
	})
	return context.WithValue(ctx, handshake{}, func() { stop(); done() }), nil
}

// mustVerify reports whether a stranger must prove its address first.
func (m *Mux) mustVerify(net.Addr) bool { return m.pending.Load() > handshakesTrusted }
