package mux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"weir/topology"
)

// The first stream of a connection, after its kind byte:
//
//	dialler  ── HELLO ──>  acceptor
//	         <─ HELLO ───            HELLO-OK: the acceptor's own
//	         <─ close code, text ──  HELLO-ERR: the connection is closed, the code names the sentinel
//
// A HELLO is 2 bytes of length and a body: version range, cluster id, log id, boot id, epoch,
// index, serial, node id. Bytes behind the node id are for later versions, and skipped.

// The protocol versions we speak.
const (
	versionMin = 1
	versionMax = 1
)

// helloBytesMax bounds the body of a HELLO, in bytes: ours has some 120, the rest is for later
// versions.
const helloBytesMax = 4096

// helloMax is how long a HELLO, its answer, and the first byte of any stream may take: they are
// sent at once, so this is round trips and a loaded machine.
const helloMax = 3 * time.Second

// helloFixed is the body without the node id, in bytes.
const helloFixed = 2 + 2 + clusterBytes + 8 + 8 + 8 + 4 + 8 + 2

// hello is what each side tells the other before anything else.
type hello struct {
	versionMin, versionMax uint16
	cluster                [clusterBytes]byte
	logID                  uint64 // 0: none yet
	boot                   uint64
	epoch                  uint64
	index                  uint32 // of the connection in its class; the answer repeats it
	serial                 uint64 // of the dial: of two connections by one dialler the later stays
	id                     topology.NodeID
}

// append appends length and body.
func (h hello) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(helloFixed+len(h.id)))
	b = binary.BigEndian.AppendUint16(b, h.versionMin)
	b = binary.BigEndian.AppendUint16(b, h.versionMax)
	b = append(b, h.cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, h.logID)
	b = binary.BigEndian.AppendUint64(b, h.boot)
	b = binary.BigEndian.AppendUint64(b, h.epoch)
	b = binary.BigEndian.AppendUint32(b, h.index)
	b = binary.BigEndian.AppendUint64(b, h.serial)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.id)))
	return append(b, h.id...)
}

// readHello reads length and body.
func readHello(r io.Reader) (hello, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return hello{}, fmt.Errorf("read HELLO: %w", err)
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > helloBytesMax {
		return hello{}, fmt.Errorf("%w: a HELLO of %d bytes, at most %d are allowed", ErrProtocol, n, helloBytesMax)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return hello{}, fmt.Errorf("read HELLO of %d bytes: %w", n, err)
	}
	return parseHello(body)
}

// parseHello takes a body apart. A version that we do not speak is not an error here.
func parseHello(b []byte) (hello, error) {
	if len(b) < helloFixed {
		return hello{}, fmt.Errorf("%w: a HELLO of %d bytes, at least %d are needed", ErrProtocol, len(b), helloFixed)
	}
	var h hello
	h.versionMin = binary.BigEndian.Uint16(b)
	h.versionMax = binary.BigEndian.Uint16(b[2:])
	b = b[4:]
	b = b[copy(h.cluster[:], b):]
	h.logID = binary.BigEndian.Uint64(b)
	h.boot = binary.BigEndian.Uint64(b[8:])
	h.epoch = binary.BigEndian.Uint64(b[16:])
	h.index = binary.BigEndian.Uint32(b[24:])
	h.serial = binary.BigEndian.Uint64(b[28:])
	n := int(binary.BigEndian.Uint16(b[36:]))
	b = b[38:]
	if n == 0 || n > idBytesMax || n > len(b) {
		return hello{}, fmt.Errorf("%w: a node id of %d bytes in a HELLO", ErrProtocol, n)
	}
	h.id = topology.NodeID(b[:n])
	if h.boot == 0 || h.index >= indexMax {
		return hello{}, fmt.Errorf("%w: boot id %d, connection %d in a HELLO", ErrProtocol, h.boot, h.index)
	}
	return h, nil
}

// hello is what we say of ourselves.
func (m *Mux) hello(index uint32, serial uint64) hello {
	return hello{
		versionMin: versionMin,
		versionMax: versionMax,
		cluster:    m.keys.cluster,
		logID:      m.cfg.LogID(),
		boot:       m.cfg.Boot,
		epoch:      m.cfg.Epoch(),
		index:      index,
		serial:     serial,
		id:         m.cfg.ID,
	}
}

// match judges a peer's HELLO, theirs, by ours and by the node id in the peer's certificate.
func match(ours, theirs hello, certified topology.NodeID) error {
	switch {
	case theirs.cluster != ours.cluster:
		return fmt.Errorf("%w: %x here, %x there", ErrOtherCluster, ours.cluster, theirs.cluster)
	case theirs.versionMin > ours.versionMax || theirs.versionMax < ours.versionMin:
		return fmt.Errorf("%w: %d to %d here, %d to %d there", ErrVersion,
			ours.versionMin, ours.versionMax, theirs.versionMin, theirs.versionMax)
	case ours.logID != 0 && theirs.logID != 0 && theirs.logID != ours.logID:
		return fmt.Errorf("%w: log %016x here, %016x there", ErrOtherLog, ours.logID, theirs.logID)
	case theirs.id != certified:
		return fmt.Errorf("%w: it says %q, its certificate %q", ErrNotPeer, theirs.id, certified)
	case theirs.id == ours.id:
		return fmt.Errorf("%w: %q", ErrSameID, ours.id)
	case theirs.index != ours.index:
		return fmt.Errorf("%w: connection %d was answered as %d", ErrProtocol, ours.index, theirs.index)
	}
	return nil
}

// helloError says what is wrong with a HELLO that did not arrive whole.
func helloError(err error) error {
	if silent(err) {
		return fmt.Errorf("%w: no HELLO within %s", ErrProtocol, helloMax)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the HELLO ends too early", ErrProtocol)
	}
	return err
}
