package stream

import "context"

// Batch is what a handler is given: records of one link, at least one, at most its capacity.
type Batch struct {
	Records []Record
}

// Len is the number of records.
func (b *Batch) Len() int { return len(b.Records) }

// To hands on what is made of record i. Outputs leave in the order of their emission, the
// last one of a record when Handle returns or the next is emitted.
func (b *Batch) To(i int) Emitter { panic("stub") }

// Nack blames record i alone: it goes to another node, at attemptsMax its run stops.
func (b *Batch) Nack(i int, err error) { panic("stub") }

// Each is a Handler that calls f for one record at a time.
func Each(f func(context.Context, Record, Emitter) error) Handler { panic("stub") }
