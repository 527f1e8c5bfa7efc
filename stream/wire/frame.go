// Package wire turns the frames of a link into bytes and back. It is pure: no I/O, no
// goroutine, no clock.
//
// A link is one bidirectional stream, opened by the sender of records:
//
//	sender   → HELLO, then any of BATCH, MARK, CLEAR
//	receiver → HELLO-OK or HELLO-ERR, then any of ACK, NACK
//
// Every frame is a type byte, a length of four bytes (big endian) and as many bytes. Types
// from 0x80 on may be skipped by a reader that does not know them; others may not.
// Integers inside are varints (encoding/binary) unless a width is given.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the protocol spoken; a HELLO offers a range of them.
const Version = 1

// Type is a frame's first byte.
type Type byte

// The frames of a link.
const (
	TypeHello    Type = 1
	TypeHelloOK  Type = 2
	TypeHelloErr Type = 3
	TypeBatch    Type = 4
	TypeMark     Type = 5
	TypeAck      Type = 6
	TypeNack     Type = 7
	TypeClear    Type = 8

	typeSkippable Type = 0x80
)

// Skippable reports whether a reader that does not know the type may go on.
func (t Type) Skippable() bool { return t >= typeSkippable }

// Limits of frames, in bytes.
const (
	HeaderBytes = 5
	// ControlBytesMax bounds every frame but BATCH, checked before allocation (FAULTS 4,
	// limits table).
	ControlBytesMax = 64 << 10
	// RecordOverheadMax is the most a record takes on the wire besides its body: flags, ID,
	// attempt, lengths, a key and headers.
	RecordOverheadMax = 1 + 5*binary.MaxVarintLen64 + 8 + keyBytesMax + headerBytesMax + 2*headersMax*binary.MaxVarintLen16 + 4*binary.MaxVarintLen32
	// BatchBytes is what a batch of several records may hold: writes of 128 KiB measured best
	// (STACK 6). One record alone may be larger.
	BatchBytes = 128 << 10

	keyBytesMax    = 4 << 10
	headersMax     = 32
	headerBytesMax = 4 << 10
	nameBytesMax   = 256
	reasonBytesMax = 8 << 10
	positionMax    = 4 << 10
	markBytesMax   = 2*8 + 3*binary.MaxVarintLen64 + positionMax
	rangesMax      = 4096
)

// Errors of decoding: the stream is broken or hostile, and the link ends.
var (
	ErrShort = errors.New("a frame ends early")
	ErrLarge = errors.New("a frame is larger than its limit")
	ErrBad   = errors.New("a frame makes no sense")
)

// PutHeader writes a frame's header into b, which has HeaderBytes.
func PutHeader(b []byte, t Type, bodyBytes int) {
	b[0] = byte(t)
	binary.BigEndian.PutUint32(b[1:], uint32(bodyBytes))
}

// Header reads a frame's header and refuses a body above its limit; recordMax is the most
// bytes a record's body may have.
func Header(b []byte, recordMax int) (t Type, bodyBytes int, err error) {
	t = Type(b[0])
	n := binary.BigEndian.Uint32(b[1:])
	limit := uint32(ControlBytesMax)
	if t == TypeBatch {
		limit = uint32(max(BatchBytes, batchHeaderBytes+recordMax+RecordOverheadMax))
	}
	if n > limit {
		return 0, 0, fmt.Errorf("frame of type %d with %d bytes: %w", t, n, ErrLarge)
	}
	return t, int(n), nil
}

// frame puts the header before a body that fill appends.
func frame(b []byte, t Type, fill func([]byte) []byte) []byte {
	at := len(b)
	b = fill(append(b, make([]byte, HeaderBytes)...))
	PutHeader(b[at:], t, len(b)-at-HeaderBytes)
	return b
}

// Hello opens a link.
type Hello struct {
	Min, Max   uint64 // protocol versions
	Pipeline   string
	From       string // role
	Port       string
	To         string // role
	Boot       uint64 // the sender's boot id and a counter make the link's generation
	Generation uint64
	Epoch      uint64 // of the State the sender planned by
	RecordMax  uint64 // bytes of a body
}

// Append appends the frame.
func (h Hello) Append(b []byte) []byte {
	return frame(b, TypeHello, func(b []byte) []byte {
		b = binary.AppendUvarint(b, h.Min)
		b = binary.AppendUvarint(b, h.Max)
		for _, s := range []string{h.Pipeline, h.From, h.Port, h.To} {
			b = appendString(b, s)
		}
		for _, n := range []uint64{h.Boot, h.Generation, h.Epoch, h.RecordMax} {
			b = binary.AppendUvarint(b, n)
		}
		return b
	})
}

// ParseHello reads the body of a HELLO.
func ParseHello(body []byte) (Hello, error) {
	d := decoder{b: body}
	h := Hello{
		Min: d.uvarint(), Max: d.uvarint(),
		Pipeline: d.string(nameBytesMax), From: d.string(nameBytesMax),
		Port: d.string(nameBytesMax), To: d.string(nameBytesMax),
		Boot: d.uvarint(), Generation: d.uvarint(), Epoch: d.uvarint(), RecordMax: d.uvarint(),
	}
	return h, d.end()
}

// HelloOK accepts a link.
type HelloOK struct {
	Version  uint64
	Limit    uint64 // credit: records with a link seq below it may be sent
	Capacity uint64 // the most records that its handlers have at once
	Attempts uint64 // how often a record may fail; one with a higher attempt is condemned
	Life     uint64 // tells this start of the role from every other
	Marks    []Mark // that it has; as many as fit
}

// Append appends the frame.
func (h HelloOK) Append(b []byte) []byte {
	return frame(b, TypeHelloOK, func(b []byte) []byte {
		for _, n := range []uint64{h.Version, h.Limit, h.Capacity, h.Attempts, h.Life} {
			b = binary.AppendUvarint(b, n)
		}
		var marks []byte
		fit := uint64(0)
		for _, m := range h.Marks {
			if len(marks)+2*markBytesMax > ControlBytesMax { // one for what comes before them
				break
			}
			marks = m.append(marks)
			fit++
		}
		return append(binary.AppendUvarint(b, fit), marks...)
	})
}

// ParseHelloOK reads the body of a HELLO-OK; the marks' positions are parts of it.
func ParseHelloOK(body []byte) (HelloOK, error) {
	d := decoder{b: body}
	h := HelloOK{Version: d.uvarint(), Limit: d.uvarint(), Capacity: d.uvarint(), Attempts: d.uvarint(), Life: d.uvarint()}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		h.Marks = append(h.Marks, d.mark())
	}
	return h, d.end()
}

// Code says why a link or a record was refused.
type Code uint64

// Codes of HELLO-ERR and of NACK.
const (
	CodeRefused Code = 1 // not in my State, or an older generation: do not ask again
	CodeStale   Code = 2 // my State is behind: ask again later
	CodeVersion Code = 3 // no protocol version in common

	CodeAttempt Code = 16 // blamed on the record: give it to another node
	CodeStop    Code = 17 // the run cannot go on: stop it, for the reason given
	CodeRetry   Code = 18 // not blamed on the record: give it out again after the pause
	CodeFenced  Code = 19 // a newer claim reads the source: forget the record, and stop reading
)

// HelloErr refuses a link.
type HelloErr struct {
	Code Code
	Text string
}

// Append appends the frame; a longer text is cut.
func (h HelloErr) Append(b []byte) []byte {
	return frame(b, TypeHelloErr, func(b []byte) []byte {
		return appendString(binary.AppendUvarint(b, uint64(h.Code)), cut(h.Text, reasonBytesMax))
	})
}

// ParseHelloErr reads the body of a HELLO-ERR.
func ParseHelloErr(body []byte) (HelloErr, error) {
	d := decoder{b: body}
	h := HelloErr{Code: Code(d.uvarint()), Text: d.string(reasonBytesMax)}
	return h, d.end()
}

// Mark says that every record of a source's generation below Next is acked end to end. It
// needs no credit and every hop forwards it.
type Mark struct {
	Source, Gen, Claim, Next uint64
	Position                 []byte // the tap's own, at most 4 KiB
}

// Append appends the frame.
func (m Mark) Append(b []byte) []byte {
	return frame(b, TypeMark, m.append)
}

func (m Mark) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Source)
	b = binary.BigEndian.AppendUint64(b, m.Gen)
	b = binary.AppendUvarint(b, m.Claim)
	b = binary.AppendUvarint(b, m.Next)
	return appendBytes(b, m.Position)
}

// ParseMark reads the body of a MARK; Position is a part of it.
func ParseMark(body []byte) (Mark, error) {
	d := decoder{b: body}
	m := d.mark()
	return m, d.end()
}

func (d *decoder) mark() Mark {
	return Mark{Source: d.uint64(), Gen: d.uint64(), Claim: d.uvarint(), Next: d.uvarint(), Position: d.bytes(positionMax)}
}

// Clear says that the sender knows of all records with a link seq below Below that they are taken: the
// suspects among them may be handled.
type Clear struct {
	Below uint64
}

// Append appends the frame.
func (c Clear) Append(b []byte) []byte {
	return frame(b, TypeClear, func(b []byte) []byte { return binary.AppendUvarint(b, c.Below) })
}

// ParseClear reads the body of a CLEAR.
func ParseClear(body []byte) (Clear, error) {
	d := decoder{b: body}
	c := Clear{Below: d.uvarint()}
	return c, d.end()
}

// Nack gives one record back.
type Nack struct {
	Seq    uint64 // of the link
	Code   Code
	Exit   uint64 // the exit code a run that stops for this should have; 0 = 1
	After  uint64 // milliseconds that the record is to be kept at least
	Reason string
}

// Append appends the frame; a longer reason is cut.
func (n Nack) Append(b []byte) []byte {
	return frame(b, TypeNack, func(b []byte) []byte {
		for _, v := range []uint64{n.Seq, uint64(n.Code), n.Exit, n.After} {
			b = binary.AppendUvarint(b, v)
		}
		return appendString(b, cut(n.Reason, reasonBytesMax))
	})
}

// ParseNack reads the body of a NACK.
func ParseNack(body []byte) (Nack, error) {
	d := decoder{b: body}
	n := Nack{Seq: d.uvarint(), Code: Code(d.uvarint()), Exit: d.uvarint(), After: d.uvarint(), Reason: d.string(reasonBytesMax)}
	return n, d.end()
}

func cut(s string, max int) string {
	if len(s) > max {
		return s[:max]
	}
	return s
}
