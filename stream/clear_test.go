package stream

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/stream/wire"
	"weir/topology"
)

// teller is a sender of which only what it says is there.
type teller struct {
	t    *testing.T
	conn net.Conn
	ack  wire.Ack // the last one that came
	next uint64   // link seq
}

func tellTo(t *testing.T, r *rig, in *Inlet, from topology.NodeID, generation uint64) *teller {
	ours, theirs := net.Pipe()
	r.group.Go(func() {
		if l, err := Accept(ours); err == nil {
			_ = in.Serve(r.ctx, l, from)
		}
	})
	s := &teller{t: t, conn: theirs}
	s.tell(wire.Hello{Min: wire.Version, Max: wire.Version, Pipeline: "p", From: "tap", To: "map", Boot: 1, Generation: generation}.Append(nil))
	r.group.Go(func() {
		for br := bufio.NewReader(theirs); ; {
			typ, body, err := readFrame(br, nil, 0)
			if err != nil {
				return
			}
			if typ == wire.TypeAck {
				_ = s.ack.Parse(body)
			}
		}
	})
	synctest.Wait()
	return s
}

// tell writes a frame and waits until all that it leads to is done.
func (s *teller) tell(frame []byte) {
	if _, err := s.conn.Write(frame); err != nil {
		s.t.Error(err)
	}
	synctest.Wait()
}

// records sends a batch; those in capitals are suspects.
func (s *teller) records(bodies string) {
	c := newChunk(1000)
	for _, body := range strings.Fields(bodies) {
		c.append(s.next, &wire.Record{Seq: s.next, Attempt: 1, Suspect: body == strings.ToUpper(body), Body: []byte(body)})
		s.next++
	}
	c.finish(false)
	s.tell(c.buf)
}

func (s *teller) clear(below uint64) { s.tell(wire.Clear{Below: below}.Append(nil)) }

func (s *teller) end() { s.conn.Close(); synctest.Wait() }

// handled is a handler that notes what it was given.
type handled struct {
	t    *testing.T
	mu   sync.Mutex
	seen []string
}

func (h *handled) Handle(_ context.Context, b *Batch) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, rec := range b.Records {
		h.seen = append(h.seen, string(rec.Body))
	}
	return nil
}

func (h *handled) want(what, all string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := strings.Join(h.seen, " "); got != all {
		h.t.Errorf("%s: handled %q, want %q", what, got, all)
	}
}

// What a node does with suspects while their sender does not know that they were taken: no handler has them,
// and when the link ends so, they are another node's and the handlers that waited are free.
func TestSuspectsWaitToBeCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := &handled{t: t}
		in := r.inlet(InletConfig{Role: "map", Capacity: 1, Handler: h})
		s := tellTo(t, r, in, "n1", 1)
		s.records("A")
		h.want("nobody knows that it was taken", "")
		if s.ack.Taken != 1 {
			t.Errorf("the sender was told of %d, want one", s.ack.Taken)
		}
		s.clear(1)
		h.want("cleared", "A")
		s.records("B C")
		s.clear(2) // behind what is not all taken
		h.want("the first of two is cleared", "A B")
		s.end()
		s = tellTo(t, r, in, "n1", 2)
		s.records("d")
		h.want("the link ended, and the handler is free", "A B d")
		s.records("E")
		s.clear(1)
		h.want("only what came before it is cleared", "A B d")
		other := tellTo(t, r, in, "n2", 1)
		other.records("f")
		h.want("the handler waits for the first link", "A B d")
		time.Sleep(clearMax)
		synctest.Wait()
		h.want("it waited long enough", "A B d f")
		r.stop()
	})
}

// Suspects hold up nothing that is no suspect, and the word for those of one link is not one for another's.
func TestSuspectsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := &handled{t: t}
		in := r.inlet(InletConfig{Role: "map", Serial: true, Handler: h})
		one, two := tellTo(t, r, in, "n1", 1), tellTo(t, r, in, "n2", 1)
		one.records("a") // each has credit for one before
		two.records("b")
		in.Pause(true)
		one.records("c D")
		two.records("E f")
		in.Pause(false)
		synctest.Wait()
		h.want("what comes before a suspect", "a b c")
		one.clear(3)
		h.want("its own link is cleared", "a b c D")
		two.clear(2)
		h.want("the other is", "a b c D E f")
		r.stop()
	})
}
