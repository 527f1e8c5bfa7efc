package bench

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sync/errgroup"
)

const (
	// writeBytes and readBytes are what raw streams are written and read by: what links use, and
	// larger ones bring nothing more (STACK 5: 64 KiB and up).
	writeBytes = 128 << 10
	readBytes  = 64 << 10
	// rawWait bounds what a raw stream does besides pouring: its handshake, and its end.
	rawWait = 5 * time.Second
)

// Raw is the far end of raw streams, on loopback, behind mutual TLS 1.3: it reads a stream to its
// end and answers with one byte.
//
// Its QUIC is quic-go with its own defaults (nil Config) on a *net.UDPConn, one connection, one
// bidirectional stream; its TLS is crypto/tls over one TCP connection.
type Raw struct {
	quic *quic.Listener
	tls  net.Listener
}

// ListenRaw opens both ports.
func ListenRaw() (*Raw, error) {
	conf, err := rawTLS()
	if err != nil {
		return nil, err
	}
	q, err := quic.ListenAddr("127.0.0.1:0", conf, nil)
	if err != nil {
		return nil, fmt.Errorf("listen for a raw QUIC stream: %w", err)
	}
	t, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for a raw TLS stream: %w", err), q.Close())
	}
	return &Raw{q, t}, nil
}

// QUIC is the address for PourQUIC.
func (r *Raw) QUIC() string { return r.quic.Addr().String() }

// TLS is the address for PourTLS.
func (r *Raw) TLS() string { return r.tls.Addr().String() }

// Run serves one stream of each kind after the other until ctx is done.
func (r *Raw) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { // ended by the listener's close
		for {
			q, err := r.quic.Accept(ctx)
			if err != nil {
				return ended(ctx, err)
			}
			if s, err := q.AcceptStream(ctx); err == nil {
				drain(ctx, s)
				_ = s.Close()
				select {
				case <-q.Context().Done(): // the near end has its answer
				case <-ctx.Done():
				}
			}
		}
	})
	g.Go(func() error { // likewise
		for {
			c, err := r.tls.Accept()
			if err != nil {
				return ended(ctx, err)
			}
			drain(ctx, c)
			_ = c.Close()
		}
	})
	g.Go(func() error { // ended by ctx
		<-ctx.Done()
		return errors.Join(r.quic.Close(), r.tls.Close())
	})
	return g.Wait()
}

// ended is no error where ctx is done.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// deadliner is a stream of either kind.
type deadliner interface {
	io.ReadWriter
	SetDeadline(time.Time) error
}

// drain reads s to its end, or that of ctx, and answers.
func drain(ctx context.Context, s deadliner) {
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, readBytes)
	for {
		if _, err := s.Read(buf); err == io.EOF {
			_, _ = s.Write(buf[:1]) // the near end notices if it does not come
			return
		} else if err != nil {
			return
		}
	}
}

// PourQUIC writes over a raw QUIC stream to addr for about d and returns the bytes per second
// until the far end had read them all.
func PourQUIC(ctx context.Context, addr string, d time.Duration) (float64, error) {
	conf, err := rawTLS()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, d+rawWait)
	defer cancel()
	q, err := quic.DialAddr(ctx, addr, conf, nil)
	if err != nil {
		return 0, fmt.Errorf("open a raw QUIC connection: %w", err)
	}
	defer q.CloseWithError(0, "")
	s, err := q.OpenStreamSync(ctx)
	if err != nil {
		return 0, fmt.Errorf("open a raw QUIC stream: %w", err)
	}
	return pour(ctx, s, s.Close, d)
}

// PourTLS is PourQUIC over TLS and TCP.
func PourTLS(ctx context.Context, addr string, d time.Duration) (float64, error) {
	conf, err := rawTLS()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, d+rawWait)
	defer cancel()
	c, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, fmt.Errorf("open a raw TLS connection: %w", err)
	}
	defer c.Close()
	return pour(ctx, c, c.(*tls.Conn).CloseWrite, d)
}

func pour(ctx context.Context, s deadliner, end func() error, d time.Duration) (float64, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, writeBytes)
	_, _ = rand.Read(buf)
	sent, began := 0, time.Now()
	for time.Since(began) < d {
		n, err := s.Write(buf)
		if err != nil {
			return 0, fmt.Errorf("write a raw stream: %w", err)
		}
		sent += n
	}
	if err := end(); err != nil {
		return 0, fmt.Errorf("end a raw stream: %w", err)
	}
	if _, err := io.ReadFull(s, buf[:1]); err != nil {
		return 0, fmt.Errorf("wait for the end of a raw stream: %w", err)
	}
	return float64(sent) / time.Since(began).Seconds(), nil
}

// rawTLS is mutual TLS 1.3 between ends that do not know each other: whose certificate it is
// costs the handshake, not the stream.
func rawTLS() (*tls.Config, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAnyClientCert, InsecureSkipVerify: true,
		MinVersion: tls.VersionTLS13, NextProtos: []string{"weir-raw"},
	}, nil
}
