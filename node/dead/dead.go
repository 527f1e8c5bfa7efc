// Package dead keeps dead letters: records that a role could not handle, each with why, until
// somebody replays or drops it.
//
// A Store is one file. Put returns when the letter would survive a power cut, and is idempotent: the
// same record of the same role is one letter, however often its role gives it up. What bounds the
// number of letters is the disk; each is bounded by the limits of a record.
//
// The package owns no goroutine but those of a batch of its database, which end with its calls.
package dead

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// reasonBytesMax and stderrBytesMax are where a letter's reason and the end of what its program
	// wrote are cut, in bytes: the most of a reason that travels (stream/wire).
	reasonBytesMax = 8 << 10
	stderrBytesMax = 8 << 10
	// idDigits is the length of a letter's id, in hex digits.
	idDigits = 16
)

// Letter is what is known of a dead letter besides its record.
type Letter struct {
	ID       string            `json:"id"` // 16 hex digits that follow from Pipeline, Role and Record
	TimeMS   int64             `json:"time_ms"`
	Pipeline string            `json:"pipeline"`
	Role     string            `json:"role"`             // that failed, and where a replay enters
	Node     string            `json:"node"`             // that gave it up
	Keeper   string            `json:"keeper,omitempty"` // node whose disk it is on
	From     string            `json:"from,omitempty"`   // role before
	Port     string            `json:"port,omitempty"`   // of Role, that the record came out by, and no edge starts there
	Attempts int               `json:"attempts"`
	Reason   string            `json:"reason"`
	Stderr   string            `json:"stderr,omitempty"` // the end of what its program wrote there
	Record   string            `json:"record"`           // its ID
	Key      string            `json:"key,omitempty"`
	Header   map[string]string `json:"header,omitempty"`
	Bytes    int               `json:"bytes"` // of its body
}

// Content is what a record holds, byte for byte.
type Content struct {
	Key    []byte
	Header map[string]string
	Body   []byte
}

// Of names the role of the letter.
func (l Letter) Of() string { return l.Pipeline + "/" + l.Role }

// Filter says which letters are meant; the zero value means all.
type Filter struct {
	Name   string `json:"name,omitempty"`   // PIPELINE, or PIPELINE/ROLE
	Prefix string `json:"prefix,omitempty"` // of the id
	Record string `json:"record,omitempty"` // a prefix of the record's ID: all of one source
	Limit  int    `json:"limit,omitempty"`  // how many at most, the newest; 0: no bound
}

func (f Filter) fits(l *Letter) bool {
	return (f.Name == "" || f.Name == l.Pipeline || f.Name == l.Of()) &&
		strings.HasPrefix(l.ID, f.Prefix) && strings.HasPrefix(l.Record, f.Record)
}

// ErrNone says that there is no such letter.
var ErrNone = errors.New("there is no such dead letter: it was replayed or dropped, or never was")

// ErrDamaged says that bytes on the disk are not those that were written.
var ErrDamaged = errors.New("the file is damaged")

// id is the first that a letter may have; the next ones are for letters of other records with the same.
func (l *Letter) id() uint64 {
	h := sha256.Sum256([]byte(l.Pipeline + "\x00" + l.Role + "\x00" + l.Record))
	return binary.BigEndian.Uint64(h[:])
}

func idOf(n uint64) string { return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, n)) }

// CheckPrefix says why text cannot begin an id.
func CheckPrefix(text string) error {
	ok := text != "" && len(text) <= idDigits
	for _, c := range text {
		ok = ok && strings.ContainsRune("0123456789abcdef", c)
	}
	if !ok {
		return fmt.Errorf("%.40q cannot begin the id of a dead letter: it is 1 to %d of 0-9 and a-f", text, idDigits)
	}
	return nil
}

// limit cuts what a letter says to its bounds, to whole characters.
func (l *Letter) limit() {
	l.Reason = cutTail(l.Reason, reasonBytesMax)
	if n := len(l.Stderr) - stderrBytesMax; n > 0 {
		for ; n < len(l.Stderr) && !utf8.RuneStart(l.Stderr[n]); n++ {
		}
		l.Stderr = l.Stderr[n:]
	}
}

func cutTail(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// Encode is the content as bytes: a line that holds key and headers, and the body behind it.
func (c Content) Encode() []byte {
	head := [][]byte{c.Key} // not as text: JSON would replace what is not UTF-8
	for name, value := range c.Header {
		head = append(head, []byte(name), []byte(value))
	}
	b, err := json.Marshal(head)
	if err != nil {
		panic(fmt.Sprintf("dead: encode bytes: %v", err)) // these can be encoded
	}
	return append(append(b, '\n'), c.Body...)
}

// Decode is the content that Encode wrote; its body is a part of b.
func Decode(b []byte) (Content, error) {
	line, body, ok := bytes.Cut(b, []byte{'\n'})
	var head [][]byte
	if err := json.Unmarshal(line, &head); err != nil || !ok || len(head)%2 == 0 {
		return Content{}, fmt.Errorf("%w: a record", ErrDamaged)
	}
	c := Content{Key: head[0], Body: body}
	for i := 1; i < len(head); i += 2 {
		if c.Header == nil {
			c.Header = make(map[string]string)
		}
		c.Header[string(head[i])] = string(head[i+1])
	}
	return c, nil
}
