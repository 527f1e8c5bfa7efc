package mux

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/quic-go/quic-go"

	"weir/topology"
)

// Sizes in bytes.
const (
	secretBytes  = 32 // DESIGN 4
	clusterBytes = 8  // names a cluster to people and in HELLO: short enough to type, it guards nothing
)

// serverName is the one name in every certificate: who a node is stands in the common name.
const serverName = "weir"

// keys are what derives from the cluster's secret, and the node's own. Each that derives has a
// label (RFC 5869, info), so that none says anything about another.
type keys struct {
	node    ed25519.PrivateKey // nil: mint makes one
	cluster [clusterBytes]byte
	ca      ed25519.PrivateKey
	// reset follows from the node id too. It outlives a restart, so that a peer hears of it at
	// once (FAULTS T6: 12 s without).
	reset quic.StatelessResetKey
}

func deriveKeys(secret []byte, id topology.NodeID) (keys, error) {
	var k keys
	derive := func(info string, n int) ([]byte, error) {
		return hkdf.Key(sha256.New, secret, nil, info, n)
	}
	cluster, err := derive("weir cluster id", clusterBytes)
	if err != nil {
		return k, err
	}
	seed, err := derive("weir certificate authority", ed25519.SeedSize)
	if err != nil {
		return k, err
	}
	reset, err := derive("weir stateless reset "+string(id), len(k.reset))
	if err != nil {
		return k, err
	}
	copy(k.cluster[:], cluster)
	copy(k.reset[:], reset)
	k.ca = ed25519.NewKeyFromSeed(seed)
	return k, nil
}

// validity is that of every certificate. It is wide because certificates live no longer than
// their process and membership ends with the secret, not with a date: a clock that is an hour or
// ten years wrong must not stop the flow, and a simulation begins in 2000.
func validity() (from, to time.Time) {
	return time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
}

// checkClock refuses a clock by which no certificate is valid: each handshake would fail.
func checkClock(now time.Time) error {
	if from, to := validity(); now.Before(from) || now.After(to) {
		return fmt.Errorf("%w: this node's says %s", ErrClock, now.UTC().Format(time.DateOnly))
	}
	return nil
}

// issuer is the name of the authority less the cluster's: it tells a peer without our secret, which
// cannot verify anything, of which cluster we are.
const issuer = "weir cluster "

// issuerOf is the cluster that a certificate names, which may lie; "" if it is none of ours.
func issuerOf(c *x509.Certificate) string {
	if c == nil {
		return ""
	}
	cluster, ok := strings.CutPrefix(c.Issuer.CommonName, issuer)
	if _, err := hex.DecodeString(cluster); !ok || err != nil || len(cluster) != hex.EncodedLen(clusterBytes) {
		return ""
	}
	return cluster
}

// mint makes a node's certificate, and the pool that verifies those of its peers: every node
// makes the same authority from the secret.
func (k *keys) mint(id topology.NodeID) (tls.Certificate, *x509.CertPool, error) {
	from, to := validity()
	authority := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: issuer + hex.EncodeToString(k.cluster[:])},
		NotBefore:             from,
		NotAfter:              to,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, k.ca.Public(), k.ca)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	if authority, err = x509.ParseCertificate(der); err != nil {
		return tls.Certificate{}, nil, err
	}
	private := k.node
	if private == nil {
		if _, private, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return tls.Certificate{}, nil, err
		}
	}
	leaf := &x509.Certificate{ // its serial number is drawn at random
		Subject:     pkix.Name{CommonName: string(id)},
		DNSNames:    []string{serverName},
		NotBefore:   from,
		NotAfter:    to,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if der, err = x509.CreateCertificate(rand.Reader, leaf, authority, private.Public(), k.ca); err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, pool, nil
}

func clientTLS(cert tls.Certificate, pool *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		RootCAs:      pool,
		ServerName:   serverName,
	}
}

func serverTLS(cert tls.Certificate, pool *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		ClientCAs:              pool,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		NextProtos:             []string{classCtl.alpn(), classData.alpn()},
		SessionTicketsDisabled: true, // a resumed session would skip the client's certificate
	}
}

// whose is the node id in the certificate the peer has shown, and that.
func whose(state tls.ConnectionState) (topology.NodeID, *x509.Certificate, error) {
	if len(state.PeerCertificates) == 0 {
		return "", nil, errors.New("the peer has shown no certificate")
	}
	leaf := state.PeerCertificates[0]
	return topology.NodeID(leaf.Subject.CommonName), leaf, nil
}

// ours reports whether a certificate is our own: then the peer is ourselves. Each start mints
// another, so a node that has our id and key, from a copy of our data dir, is none of us.
func (m *Mux) ours(c *x509.Certificate) bool {
	return bytes.Equal(c.Raw, m.client.Certificates[0].Certificate[0])
}
