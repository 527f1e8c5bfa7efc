package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Pure: what a member says of itself, to bytes and back.
//
//	version 1 | flags 1 | log id 8 | boot uvarint | program | roles | tags
//
// A text is its length as a uvarint, then its bytes; roles and tags are lists of texts: their
// count as a uvarint, then each. Version 1 had no tags.
const (
	metaVersion = 2
	// metaBytesMax is the most a member may gossip about itself, in bytes: memberlist refuses
	// more (MetaMaxSize, memberlist net.go).
	metaBytesMax = 512

	flagVoter   = 1 << 0
	flagLeaving = 1 << 1
)

var errMeta = errors.New("what it says of itself is cut off or damaged")

type meta struct {
	boot, logID    uint64
	voter, leaving bool
	version        string
	roles, tags    []string
}

func metaOf(m Member, leaving bool) meta {
	return meta{boot: m.Boot, logID: m.LogID, voter: m.Voter, leaving: leaving, version: m.Version, roles: m.Roles, tags: m.Tags}
}

func (m meta) encode() ([]byte, error) {
	b := []byte{metaVersion, 0}
	if m.voter {
		b[1] |= flagVoter
	}
	if m.leaving {
		b[1] |= flagLeaving
	}
	b = binary.BigEndian.AppendUint64(b, m.logID)
	b = binary.AppendUvarint(b, m.boot)
	b = appendText(b, m.version)
	for _, list := range [][]string{m.roles, m.tags} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, text := range list {
			b = appendText(b, text)
		}
	}
	if len(b) > metaBytesMax {
		return nil, fmt.Errorf("%d roles and %d tags need %d bytes of gossip, %d is the most: have fewer or shorten their names",
			len(m.roles), len(m.tags), len(b), metaBytesMax)
	}
	return b, nil
}

func decodeMeta(b []byte) (meta, error) {
	if len(b) < 10 || len(b) > metaBytesMax {
		return meta{}, errMeta
	}
	if b[0] == 0 || b[0] > metaVersion {
		return meta{}, fmt.Errorf("it gossips in version %d, we in %d", b[0], metaVersion)
	}
	m := meta{voter: b[1]&flagVoter != 0, leaving: b[1]&flagLeaving != 0, logID: binary.BigEndian.Uint64(b[2:])}
	r := reader{b: b[10:]}
	m.boot = r.uvarint()
	m.version = r.text()
	m.roles = r.texts()
	if b[0] > 1 {
		m.tags = r.texts()
	}
	if r.bad || len(r.b) > 0 {
		return meta{}, errMeta
	}
	return m, nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes values off the front of b; bad says that b ended early.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) texts() (list []string) {
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		list = append(list, r.text())
	}
	return list
}
