package stream

import (
	"context"
	"errors"
	"time"
)

// ID names a record. It is comparable, and equal on every attempt whose handler made the
// same body from the same parent.
type ID struct {
	Source uint64 // hash of pipeline, role and partition of the tap
	Gen    uint64 // generation of the source's numbering: random, made with the source's state
	Seq    uint64 // of the root record within the generation, from 0
	Path   uint64 // hash of parent path, role and ordinal; the lowest bit says: last output of its parent
	Sum    uint64 // xxh3 of the body: equal IDs with other bodies are other records
}

// Out is what a tap or a handler makes. The slices are copied by Emit.
type Out struct {
	Body, Key []byte
	Header    map[string]string // usually nil; at most 32 entries, 4 KiB
	Port      string            // "" = ordinary edges
}

// Record is lent to the handler until it returns: read-only, clone what you keep.
type Record struct {
	ID      ID
	From    string // upstream role
	Attempt int    // from 1; a death of a node or link is a delivery, not an attempt
	Out
}

// Emitter hands on what a handler makes of one record. It is safe for concurrent use until
// the handler returns; then its methods return ErrClosed.
type Emitter interface {
	// Emit copies o and blocks while no node downstream has credit. A handler returns its error.
	Emit(ctx context.Context, o Out) error
	// EmitBatch is Emit for many under one lock.
	EmitBatch(ctx context.Context, os []Out) error
	// Offer never blocks: ErrBusy where Emit would.
	Offer(o Out) error
}

// Handler turns records into others. Handle is called by several goroutines, for at most
// Capacity records at once; nil, once all outputs are acked, acks the records, an error nacks
// all that were not nacked alone.
type Handler interface {
	Handle(ctx context.Context, b *Batch) error
}

// Mark is a place in a partition, at most 4 KiB; only its tap reads it.
type Mark []byte

// Tap is where records come from. One may also have Shared() bool: all nodes of the role see the same
// partitions; Replayable() bool: false where nothing can be read again, so that marks are of no use; and
// Keep(known []string) []string: those of known partitions that stand instead of what it names now; and
// Again, as Open from the start, but ErrReset where the first record is not the one that first is the mark of:
//
//	Again(ctx context.Context, partition string, first Mark) (Reader, error)
//
// One that has no Again is opened from the start and, to compare, at that mark.
type Tap interface {
	// Partitions names the parts that are read apart from each other; names are stable.
	Partitions(context.Context) ([]string, error)
	// Open starts reading after at; nil is the start. An error that is ErrReset says that what was
	// read up to at is not what is there now: it is to be opened from the start, as a new generation.
	Open(ctx context.Context, partition string, at Mark) (Reader, error)
}

// Reader reads one partition. Next and Close are called by one goroutine; Done by any, once
// per record, in any order.
type Reader interface {
	// Next returns the next record and the mark after it; both are the caller's until the next
	// call of Next. io.EOF: finished; ErrReset, as of Open: what is read has begun anew.
	Next(context.Context) (Out, Mark, error)
	// Done says that a record, named by its mark, is acked end to end, or is a dead letter.
	Done(Mark, error)
	Close() error
}

// Sink is where records end. Write is called by one goroutine at a time, with records of one
// source; nil means that the records, and seen with them, survive a power cut. An error that is a
// Retry is of the store, not of the records (a full disk, a server that is away): the same Write is
// tried again until it is taken, and the role takes nothing meanwhile. An error that is a Poison is
// of a record: which, is found by writing fewer at once.
type Sink interface {
	// Load returns the Bytes of all that Write was given for the source since the last Whole one,
	// one after the other; nil: nothing.
	Load(ctx context.Context, source uint64) ([]byte, error)
	Write(ctx context.Context, rs []Record, seen Seen) error
	Close() error
}

// Seen is what a sink has had of one source, for the next start of the sink: only this package
// reads it. A store that refuses an ID it has (a unique key) need not keep it.
type Seen struct {
	Source uint64
	Bytes  []byte // lent until Write returns
	Whole  bool   // Bytes takes the place of all before; else it comes behind that
}

// Letter is a dead letter: a record that its role cannot handle, and why.
type Letter struct {
	Pipeline, Role string // the role that failed
	Record         Record // lent
	Reason         string
	Stderr         string // the end of what the program wrote there
}

// Retry says that a record is to be tried again after so long, here or elsewhere, and is not to
// blame (HTTP 429, exit code 75); 0: the backoff of whoever keeps it.
func Retry(after time.Duration, err error) error { return &retryError{err, after} }

// Poison says that no attempt can help: the record is a dead letter (exit code 65).
func Poison(err error) error { return &poisonError{err, nil} }

// HeaderLine is the header of a dead letter that says which lines of its record it is: 7, or 7-9, or
// several of these.
const HeaderLine = "weir-line"

// PoisonLines is Poison of some lines of a block: all others were handled. The dead letter has the
// lines alone, and their numbers as HeaderLine.
func PoisonLines(err error, lines []byte, numbers string) error {
	return &poisonError{err, &poisonedLines{lines, numbers}}
}

type retryError struct {
	error
	after time.Duration
}

func (e *retryError) Unwrap() error { return e.error }

// ExitCode is EX_TEMPFAIL of sysexits.h.
func (e *retryError) ExitCode() int { return 75 }

// RetryAfter reports whether an error is a Retry, and what it asks for.
func RetryAfter(err error) (after time.Duration, ok bool) {
	e, ok := errors.AsType[*retryError](err)
	if !ok {
		return 0, false
	}
	return e.after, true
}

// IsPoison reports whether an error is a Poison.
func IsPoison(err error) bool {
	_, ok := errors.AsType[*poisonError](err)
	return ok
}

type poisonError struct {
	error
	lines *poisonedLines // nil: all of the record
}

type poisonedLines struct {
	body    []byte
	numbers string
}

// of is the part of a record that is the letter.
func (l *poisonedLines) of(r Record) Record {
	header := map[string]string{HeaderLine: l.numbers}
	for k, v := range r.Header {
		if k != HeaderLine {
			header[k] = v
		}
	}
	r.Body, r.Header = l.body, header
	return r
}

func (e *poisonError) Unwrap() error { return e.error }

// ExitCode is EX_DATAERR of sysexits.h.
func (e *poisonError) ExitCode() int { return 65 }

// ErrReset is what Tap.Open returns where the place in a partition is not there any more.
var ErrReset = errors.New("what was read before is not there any more")

// Errors of emitting.
var (
	ErrBusy   = errors.New("no credit downstream: try again later")
	ErrClosed = errors.New("the emitter is closed: its handler has returned")
	ErrNoEdge = errors.New("no edge starts at this port")
)

// ConfigError says that a role can never work as configured (a program that is not there or
// not executable): the run stops at once, whatever the record.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// ExitCode is EX_CONFIG of sysexits.h.
func (e *ConfigError) ExitCode() int { return 78 }

// Limits of a record.
const (
	// RecordBytesMax is the most a record's body may hold unless its pipeline raises it, in
	// bytes (DESIGN 6: small enough that a window holds several).
	RecordBytesMax = 1 << 20
	// AttemptsDefault is how often a record may be blamed before it is a dead letter, unless told
	// otherwise (DESIGN 6).
	AttemptsDefault = 3
	// handleTarget is how long one hand-over of several records to a handler should take: long
	// enough that the hand-over is cheap, short enough that no record waits behind its batch.
	handleTarget = 50 * time.Microsecond
)
