// Package stream moves records from role to role and acks back: this is what weir is for.
//
// A role on a node has an [Inlet], all links that lead to it, and an [Outlet], all links that
// lead on. A link has two live ends, a [Sender] and a [Receiver]; between them is one stream of
// bytes that the caller brings, with flow control of its own. The package opens no connection,
// knows no cluster and never drops a record.
//
// One record goes this way:
//
//	Reader.Next → Source.read → Outlet.emit → Sender.write
//	        ⇒ Receiver.read → Inlet.take → Handler.Handle → Emitter.Emit → Outlet.emit → Sender.write
//	        ⇒ … → Sink.Write
//
// and its ack comes back:
//
//	Inlet.finish → ackBatch.done → Receiver.ack → Receiver.writeAcks
//	        ⇒ Sender.acked → ackBatch.done → Receiver.ack → Receiver.writeAcks
//	        ⇒ … → Source.ack → Reader.Done
//
// A sender keeps a record until the chain behind it has acked it (custody). When a link dies,
// [Outlet.Serve] returns and what was un-acked goes to the other links of its edge; a record that
// a handler refused goes to another node, at once or after a pause, and is a dead letter when it has
// failed too often. Where nobody keeps these, the run stops.
//
// A role at work may change: [Outlet.Revise] gives it other edges, [Inlet.Pause] and [Source.Pause]
// hold up what it takes or reads.
//
// Nothing queues. What a node holds is bounded three times: a receiver reads its next batch when
// the last one is all taken, so the stream's own window fills; a sender has credit for so many
// records that no handler has taken (credit.go); and its un-acked records, counted and in bytes,
// are a window within the node's [Budget]. Where all of these are spent, emitting blocks, and so
// does the tap.
//
// Goroutines: [Outlet.Serve] runs a link's writer and ack reader, [Inlet.Serve] its reader and ack
// writer; each has one more that lets blocked I/O fail at the end. [Inlet.Run] owns the handling
// goroutines, at most the role's capacity, made when there is work for them. [Source.Run] owns
// one that reads and one that sends marks. All of these are joined before the function returns.
//
// Locks: an outlet's mu guards all of its senders, so that an Emit takes one lock; an inlet's mu
// guards all of its receivers. Under an inlet's mu a receiver's may be taken, otherwise none is
// held with another, and none across a call out or anything that blocks.
package stream
