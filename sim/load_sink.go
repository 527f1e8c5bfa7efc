package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"weir/node/sink"
	"weir/stream"
	"weir/topology"
)

// fileSink is the product's sink of a file.
type fileSink interface {
	stream.Sink
	Path() string
	Begin(ctx context.Context, fresh bool) error
}

// loadSink is a sink: the product's, on a simulated disk. What its Write returned for is durable.
// Role.Takes is what a write takes more, as an fsync does, whatever the number of records.
type loadSink struct {
	fileSink
	w    *Workload
	id   topology.NodeID
	role Role

	rs []stream.Record // kept from write to write
}

// storeOf is the file of a node's sink.
func storeOf(role string, id topology.NodeID) string { return "/" + role + "." + string(id) }

// openStore opens the file of a sink.
func openStore(path string, m *mount) (fileSink, error) {
	s, err := sink.OpenFile(sink.FileConfig{Path: path, Disk: m})
	if err != nil {
		return nil, fmt.Errorf("open the sink's file: %w", err)
	}
	return s.(fileSink), nil // what OpenFile says of a Disk that is given
}

// Write writes bodies without what fills them up.
func (s *loadSink) Write(ctx context.Context, rs []stream.Record, seen stream.Seen) error {
	if err := sleep(ctx, s.role.Takes); err != nil {
		return err
	}
	s.rs = append(s.rs[:0], rs...)
	events := make([]Event, 0, len(rs))
	for i, r := range rs {
		number, path, err := s.w.parse(r.Body)
		if err != nil {
			s.w.broken(s.id, s.role.Name, r.Body)
			return err
		}
		path += ">" + s.role.Name
		if s.w.ill(s.role, number, path).poison {
			return stream.Poison(errPlanned)
		}
		s.rs[i].Body = bytes.TrimRight(r.Body, ".")
		events = append(events, Event{Kind: EventSunk, Node: s.id, Record: number, Leaf: hash(path), N: uint64(r.Attempt), Text: s.role.Name})
	}
	if err := s.fileSink.Write(ctx, s.rs, seen); err != nil {
		return err
	}
	for _, e := range events {
		s.w.history.Add(e)
	}
	return nil
}

// stored notes what the file of a sink holds, as whoever starts there again finds it.
func (w *Workload) stored(path string, d *disk) error {
	m := d.mount()
	s, err := openStore(path, m)
	if err != nil {
		return err
	}
	defer s.Close() // the file is only looked at
	if err := s.Begin(context.Background(), false); err != nil {
		return err
	}
	f, err := m.Open(path)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return err
	}
	role, id, _ := bytes.Cut([]byte(path[1:]), []byte("."))
	for line := range bytes.Lines(text) {
		number, way, err := w.parseLine(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			w.broken(topology.NodeID(id), string(role), line)
			continue
		}
		w.history.Add(Event{Kind: EventStored, Node: topology.NodeID(id), Record: number, Leaf: hash(way + ">" + string(role)), Text: string(role)})
	}
	return nil
}
