package mux

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
)

// Errors of connecting.
var (
	ErrOtherCluster = errors.New("the peer belongs to another cluster (other secret): give both the same secret")
	ErrOtherLog     = errors.New("the peer has the same secret but another log, since its cluster was initialised apart: " +
		"keep one of the two, and start the nodes of the other anew, with --join and without their data dirs")
	ErrVersion      = errors.New("the peer speaks no protocol version that we speak: upgrade the older one")
	ErrNotWeir      = errors.New("what answers there is no weir node: is the address right?")
	ErrNotPeer      = errors.New("the node at this address has another id")
	ErrSameID       = errors.New("two running nodes have one id: was a data dir copied?")
	ErrOldBoot      = errors.New("a later start of this node is already connected")
	ErrNoAnswer     = errors.New("no answer: is the node running, and its UDP port open?")
	ErrCrowded      = errors.New("that node has too many other handshakes under way: it may be flooded by strangers")
	ErrClock        = errors.New("a node's clock is outside the certificates' validity, 1999 to 2099: check its date (NTP)")
	ErrProtocol     = errors.New("the peer did not keep to the protocol")
	ErrTooManyLinks = errors.New("too many links to one node: give its roles to several")
)

// Errors of streams.
var (
	ErrClosed    = errors.New("the mux is closed")
	ErrLost      = errors.New("the connection to the peer is gone: open another stream")
	ErrReset     = errors.New("the peer reset the stream")
	ErrNoHandler = errors.New("the peer does not serve this kind of stream")
)

// ErrDead is what Beat returns when the peer is gone.
var ErrDead = errors.New("the peer is dead")

// Inside only.
var (
	errSelf      = errors.New("the address is our own")
	errFull      = errors.New("the connection carries as many streams as it may")
	errAbandoned = errors.New("the dial was abandoned by who asked for it")
)

// Codes that close a connection. They travel: a number is never used again.
const (
	codeBye        quic.ApplicationErrorCode = 0 // the node stops
	codeRetired    quic.ApplicationErrorCode = 1 // another connection took its place
	codeSuperseded quic.ApplicationErrorCode = 2 // a later start of the peer connected
	codeDead       quic.ApplicationErrorCode = 3 // the peer missed its heartbeats
	codeRefused    quic.ApplicationErrorCode = 4 // refused for a reason without a code
)

// refusals are the codes by which a HELLO is refused; the text of the close says more.
var refusals = map[quic.ApplicationErrorCode]error{
	16: ErrOtherCluster,
	17: ErrOtherLog,
	18: ErrVersion,
	19: ErrNotPeer,
	20: ErrSameID,
	21: ErrOldBoot,
	22: ErrProtocol,
}

// Codes that reset a stream.
const (
	streamClosed    quic.StreamErrorCode = 0 // closed by its user
	streamReset     quic.StreamErrorCode = 1 // reset by its user
	streamNoHandler quic.StreamErrorCode = 2
)

// TLS alerts as QUIC sees them (RFC 9001 section 4.8, RFC 8446 section 6.2).
const (
	alertBadCertificate  quic.TransportErrorCode = 0x100 + 42
	alertExpired         quic.TransportErrorCode = 0x100 + 45
	alertUnknownCert     quic.TransportErrorCode = 0x100 + 46
	alertUnknownCA       quic.TransportErrorCode = 0x100 + 48
	alertNoCertificate   quic.TransportErrorCode = 0x100 + 116
	alertNoApplicationPr quic.TransportErrorCode = 0x100 + 120
)

// reasonBytesMax is how much of a peer's text goes into our errors, in bytes: a sentence or two.
const reasonBytesMax = 256

// refusal is the code that tells err to the peer.
func refusal(err error) quic.ApplicationErrorCode {
	for code, e := range refusals {
		if errors.Is(err, e) {
			return code
		}
	}
	return codeRefused
}

// dialError says in our words why a connection did not come up.
func dialError(err error) error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w (ours says %s)", ErrClock, time.Now().UTC().Format(time.RFC3339))
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if cluster := issuerOf(unknown.Cert); cluster != "" {
			return fmt.Errorf("%w: cluster %s there", ErrOtherCluster, cluster)
		}
		return ErrNotWeir
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return ErrNotWeir
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok && e.Remote {
		switch e.ErrorCode {
		case alertBadCertificate, alertUnknownCert, alertUnknownCA, alertNoCertificate:
			return ErrOtherCluster
		case alertExpired:
			return fmt.Errorf("%w (the peer says so)", ErrClock)
		case alertNoApplicationPr:
			return ErrVersion
		case quic.ConnectionRefused:
			return ErrCrowded
		}
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok && e.Remote {
		if sentinel := refusals[e.ErrorCode]; sentinel != nil {
			detail := strings.TrimPrefix(strings.TrimPrefix(e.ErrorMessage, sentinel.Error()), ": ")
			return fmt.Errorf("%w (the peer says: %.*q)", sentinel, reasonBytesMax, detail)
		}
		return fmt.Errorf("the peer closed the connection: %.*q", reasonBytesMax, e.ErrorMessage)
	}
	if silent(err) {
		return ErrNoAnswer
	}
	return err
}

// silent reports whether err means that nothing came from the peer in time.
func silent(err error) bool {
	var handshake *quic.HandshakeTimeoutError
	var idle *quic.IdleTimeoutError
	return errors.As(err, &handshake) || errors.As(err, &idle) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// streamError says in our words why a stream failed; it keeps io.EOF and deadlines as they are.
func streamError(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if e, ok := errors.AsType[*quic.StreamError](err); ok {
		switch {
		case !e.Remote:
			return net.ErrClosed
		case e.ErrorCode == streamNoHandler:
			return ErrNoHandler
		}
		return ErrReset
	}
	if errors.Is(err, quic.ErrStreamClosed) {
		return net.ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// left reports whether err says that the peer's node stopped on purpose.
func left(err error) bool {
	e, ok := errors.AsType[*quic.ApplicationError](err)
	return ok && e.Remote && e.ErrorCode == codeBye
}
