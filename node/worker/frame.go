package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"weir/stream"
)

// frameExtra is what an answer may hold besides its body, in bytes: a key and headers (at most 4 KiB
// each), written with escapes.
const frameExtra = 64 << 10

// newFrame makes the handler of a program that reads and prints JSON Lines.
func newFrame(p *program) *resident {
	s := newResident(p)
	s.jobRecords = 1 // they are answered in any order
	s.speak = func(c *child) dialect { return &frameChild{child: c} }
	return s
}

// request is a record as a frame program reads it.
type request struct {
	ID      uint64            `json:"id"`
	Attempt int               `json:"attempt"`
	Body    *string           `json:"body,omitempty"`
	Body64  []byte            `json:"body64,omitempty"` // where it is no UTF-8
	Key     *string           `json:"key,omitempty"`
	Key64   []byte            `json:"key64,omitempty"` // likewise
	Header  map[string]string `json:"header,omitempty"`
}

// answer is a line that a frame program prints: an output, the end of a record, or both; with
// neither it says that the record is being worked on.
type answer struct {
	ID     uint64            `json:"id"`
	Body   *string           `json:"body"`
	Body64 []byte            `json:"body64"`
	Key    *string           `json:"key"`    // of the output; none: the record's
	Header map[string]string `json:"header"` // likewise
	Port   string            `json:"port"`
	Done   bool              `json:"done"`
	Error  *string           `json:"error"` // ends the record too
	Retry  bool              `json:"retry"`
	Poison bool              `json:"poison"`
}

// frameChild is the dialect of one process of a frame program.
type frameChild struct {
	*child
	in  bytes.Buffer // of put: a request
	out []byte       // of read: an answer, as far as it is there
}

func (d *frameChild) put(_ context.Context, w io.Writer, j job) bool {
	r := j.record()
	q := request{ID: j.id, Attempt: r.Attempt, Header: r.Header}
	q.Body, q.Body64 = textOrBytes(r.Body)
	if r.Key != nil {
		q.Key, q.Key64 = textOrBytes(r.Key)
	}
	d.in.Reset()
	enc := json.NewEncoder(&d.in)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(&q) // it can be encoded, and a buffer takes all
	d.mu.Lock()
	if len(d.sent) > 0 && d.sent[0].id == j.id {
		d.wait(d.s.deadline)
	}
	d.mu.Unlock()
	_, err := w.Write(d.in.Bytes())
	if d.in.Cap() > outputKeepMax {
		d.in = bytes.Buffer{}
	}
	return err == nil // the process's end says more
}

func textOrBytes(b []byte) (*string, []byte) {
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}

func (d *frameChild) read(ctx context.Context, r io.Reader) {
	br := bufio.NewReaderSize(r, outputMin)
	for {
		if !d.line(br) {
			return
		}
		a, err := parseAnswer(d.out)
		if err == nil {
			err = d.take(ctx, a)
		}
		if err != nil {
			d.refuse(err)
			return
		}
		if cap(d.out) > outputKeepMax {
			d.out = nil
		}
	}
}

// line reads an answer into out; false: there is none.
func (d *frameChild) line(br *bufio.Reader) bool {
	limit := 3*d.s.outputMax + frameExtra // as much as json.dumps of Python makes of UTF-8
	d.out = d.out[:0]
	for {
		part, err := br.ReadSlice('\n')
		d.out = append(d.out, part...)
		switch {
		case len(d.out) > limit:
			d.refuse(fmt.Errorf("it is longer than %d bytes", limit))
			return false
		case err == nil:
			d.out = d.out[:len(d.out)-1]
			return true
		case err != bufio.ErrBufferFull:
			return false
		}
	}
}

func parseAnswer(text []byte) (*answer, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("it is not UTF-8: other bytes go into body64")
	}
	var a answer
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	switch {
	case len(bytes.TrimSpace(text[dec.InputOffset():])) > 0:
		return nil, errors.New("there is more than one value in the line")
	case a.Body != nil && a.Body64 != nil:
		return nil, errors.New("it has body and body64")
	case a.Body == nil && a.Body64 == nil && (a.Key != nil || a.Header != nil || a.Port != ""):
		return nil, errors.New("it has a key, header or port and no body")
	case a.Error == nil && (a.Retry || a.Poison):
		return nil, errors.New("it has retry or poison and no error")
	case a.Error != nil && (a.Body != nil || a.Body64 != nil):
		return nil, errors.New("it has a body and an error")
	case a.Retry && a.Poison:
		return nil, errors.New("it has retry and poison")
	}
	return &a, nil
}

// take does what an answer says; an error is why it cannot be one.
func (d *frameChild) take(ctx context.Context, a *answer) error {
	d.mu.Lock()
	i := slices.IndexFunc(d.sent, func(j job) bool { return j.id == a.ID })
	if i < 0 {
		d.mu.Unlock()
		return fmt.Errorf("no record with id %d waits for an answer", a.ID)
	}
	j := d.sent[i]
	d.emitting = true
	d.mu.Unlock()
	d.s.proven.Store(true)
	ends := a.Done || a.Error != nil
	var said errLines
	if ends && i == 0 {
		said = d.heard()
	}

	err := d.emit(ctx, &j, a)
	switch {
	case err != nil:
	case a.Error != nil:
		err = a.failure(d.s.name)
	case ends:
		err = said.emit(ctx, j.record(), j.batch.To(j.next))
	}
	if err != nil {
		j.batch.Nack(j.next, err)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	d.emitting = false
	if ends { // only we remove: i is still its place
		d.remove(i)
	}
	switch {
	case len(d.sent) == 0:
		d.wait(never)
	case i == 0:
		d.wait(d.s.deadline)
	}
	return nil
}

// emit hands on the output of an answer, if it has one.
func (d *frameChild) emit(ctx context.Context, j *job, a *answer) error {
	r := j.record()
	out := stream.Out{Body: a.Body64, Key: r.Key, Header: r.Header, Port: a.Port}
	switch {
	case a.Body != nil:
		out.Body = []byte(*a.Body)
	case a.Body64 == nil:
		return nil
	}
	if a.Key != nil {
		out.Key = []byte(*a.Key)
	}
	if a.Header != nil {
		out.Header = a.Header
	}
	return j.batch.To(j.next).Emit(ctx, out)
}

// failure is the error that an answer says.
func (a *answer) failure(name string) error {
	err := fmt.Errorf("%s: %s", name, clip(*a.Error))
	switch {
	case a.Retry:
		return stream.Retry(0, err)
	case a.Poison:
		return stream.Poison(err)
	}
	return err
}

// clip is the beginning of what a program says, for an error.
func clip(s string) string {
	if len(s) <= tailShown {
		return s
	}
	return strings.ToValidUTF8(s[:tailShown], "") + "…"
}

// refuse ends the process for a line that is no answer. Until one was, it is the wrong program.
func (d *frameChild) refuse(why error) {
	begin := d.out[:min(len(d.out), 80)]
	err := fmt.Errorf("%s printed a line that is no answer of mode: frame, and was killed: %w: %q", d.s.name, why, begin)
	if !d.s.proven.Load() {
		err = &stream.ConfigError{Err: err}
	}
	d.kill(err)
}

func (d *frameChild) late() error {
	if len(d.sent) == 0 { // answered at the last moment
		return nil
	}
	return fmt.Errorf("%s: gave no sign of the record it has had longest for %v, with %d unanswered, and was killed: raise deadline if it is slow", d.s.name, d.s.deadline, len(d.sent))
}

func (d *frameChild) ended() error {
	if n := len(d.sent); n > 0 {
		return fmt.Errorf("%s: ended with %d of its records unanswered: in mode: frame it must read until its input ends", d.s.name, n)
	}
	return nil
}
