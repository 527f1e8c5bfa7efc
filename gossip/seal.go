package gossip

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// secretBytes is the length of a cluster's secret.
	secretBytes = 32
	// sealBytes is what sealing adds to a packet: version, nonce 12, tag 16.
	sealBytes = 1 + 12 + 16
	// packetBytesMax is the longest packet handed to Net, in bytes: with the two that the mux
	// puts before it, it fits a path of 1280 bytes (IPv6 40, UDP 8), which is all that our QUIC
	// packets ask for (FAULTS T4).
	packetBytesMax = 1230

	sealVersion = 1
)

// The types of memberlist's messages that hold others, and the one that expands (memberlist
// net.go).
const (
	typeCompound = 7
	typeCompress = 9
	typeCRC      = 12
)

var (
	errSealed     = errors.New("the packet is not of this cluster or was changed on its way")
	errCompressed = errors.New("the message is compressed, which no node of ours does")
)

// seal encrypts packets with a key that derives from the cluster's secret, so that a packet of
// another cluster does not open. Streams need none: they run inside mutual TLS.
type seal struct{ aead cipher.AEAD }

func newSeal(secret []byte) (seal, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "weir gossip 1", 32)
	if err != nil {
		return seal{}, fmt.Errorf("derive the gossip key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return seal{}, fmt.Errorf("gossip cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return seal{}, fmt.Errorf("gossip cipher: %w", err)
	}
	return seal{aead}, nil
}

// close returns b sealed, in memory of its own.
func (s seal) close(b []byte) []byte {
	out := make([]byte, 1, len(b)+sealBytes)
	out[0] = sealVersion
	return s.aead.Seal(out, nil, b, out[:1])
}

// open returns what was sealed, in memory of its own, unless it would expand (FAULTS T9).
func (s seal) open(b []byte) ([]byte, error) {
	if len(b) < sealBytes || b[0] != sealVersion {
		return nil, errSealed
	}
	plain, err := s.aead.Open(nil, nil, b[1:], b[:1])
	if err != nil {
		return nil, errSealed
	}
	if expands(plain) {
		return nil, errCompressed
	}
	return plain, nil
}

// expands reports whether a message of memberlist, or one inside it, is compressed, or hides
// deeper than an honest node puts it: a checksum, around a compound, around plain messages.
func expands(b []byte) bool {
	if len(b) >= 5 && b[0] == typeCRC {
		b = b[5:]
	}
	if len(b) == 0 || b[0] != typeCompound {
		return len(b) > 0 && b[0] == typeCompress
	}
	if len(b) < 2 || len(b)-2 < 2*int(b[1]) {
		return false // memberlist drops it
	}
	count := int(b[1])
	lengths, parts := b[2:2+2*count], b[2+2*count:]
	for i := range count {
		n := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if n > len(parts) {
			return false // memberlist drops the rest
		}
		if n > 0 && (parts[0] == typeCompress || parts[0] == typeCompound) {
			return true
		}
		parts = parts[n:]
	}
	return false
}
