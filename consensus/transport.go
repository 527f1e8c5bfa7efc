package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"weir/topology"
)

const (
	// callWait is the longest a call without entries takes: three election timeouts, after
	// which its answer would be worth nothing.
	callWait = 3 * electionTimeout
	// appendWait is the longest a call with entries takes: a full frame at 10 MiB/s, and some.
	appendWait = 5 * time.Second
	// snapshotWait is the longest handing over a snapshot takes.
	snapshotWait = 30 * time.Second
	// idleStreams is how many streams to one server wait for their next call: one for the
	// heartbeats, one for entries, one for votes.
	idleStreams = 3
)

var (
	errStopped = errors.New("this node has stopped")
	errNoVote  = errors.New("this node has not that vote")
)

// request is a call of one raft server to another: exactly one of the pointers is set, or Stand.
type request struct {
	To       raft.ServerID                `json:"to,omitempty"`
	Append   *raft.AppendEntriesRequest   `json:"append,omitempty"`
	Vote     *raft.RequestVoteRequest     `json:"vote,omitempty"`
	PreVote  *raft.RequestPreVoteRequest  `json:"pre_vote,omitempty"`
	Timeout  *raft.TimeoutNowRequest      `json:"timeout,omitempty"`
	Snapshot *raft.InstallSnapshotRequest `json:"snapshot,omitempty"` // its data follow
	Stand    bool                         `json:"stand,omitempty"`    // make a store and say its server id
}

// response answers a request; Err says that it was not carried out.
type response struct {
	Err      string                        `json:"err,omitempty"`
	Append   *raft.AppendEntriesResponse   `json:"append,omitempty"`
	Vote     *raft.RequestVoteResponse     `json:"vote,omitempty"`
	PreVote  *raft.RequestPreVoteResponse  `json:"pre_vote,omitempty"`
	Timeout  *raft.TimeoutNowResponse      `json:"timeout,omitempty"`
	Snapshot *raft.InstallSnapshotResponse `json:"snapshot,omitempty"`
	Stood    raft.ServerID                 `json:"stood,omitempty"`
	Applied  uint64                        `json:"applied,omitempty"` // with Stood: how far it is
}

// transport carries raft's calls over streams of a Net. A stream serves one call at a time, so
// heartbeats never wait behind entries.
//
// raft's addresses are server ids: where a node is, Net knows. So the list of voters stays right
// when their addresses change, all at once and among themselves.
type transport struct {
	net Net
	id  raft.ServerID

	calls chan raft.RPC
	done  <-chan struct{} // closed by Close
	close context.CancelFunc

	// opening is the context of an attempt to open a stream: raft gives none. Close ends it.
	opening func(time.Duration) (context.Context, context.CancelFunc)

	mu        sync.Mutex
	heartbeat func(raft.RPC)
	idle      map[raft.ServerID][]net.Conn
	open      map[net.Conn]struct{}
	closed    bool
}

// A transport without pre-vote switches it off, with no more than a line in raft's log (FAULTS T8).
var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

func newTransport(ctx context.Context, n Net, id raft.ServerID) *transport {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a leader that stops has a last call to make
	return &transport{
		net: n, id: id,
		calls: make(chan raft.RPC), done: ctx.Done(), close: cancel,
		opening: func(wait time.Duration) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, wait)
		},
		idle: make(map[raft.ServerID][]net.Conn),
		open: make(map[net.Conn]struct{}),
	}
}

// Close ends all calls under way; raft calls it too.
func (t *transport) Close() error {
	t.mu.Lock()
	t.closed = true
	open := t.open
	t.open, t.idle = nil, nil
	t.mu.Unlock()
	t.close()
	for c := range open {
		c.Close()
	}
	return nil
}

func (t *transport) Consumer() <-chan raft.RPC     { return t.calls }
func (t *transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.id) }

func (t *transport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (t *transport) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }

func (t *transport) SetHeartbeatHandler(f func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = f
}

// AppendEntriesPipeline: our entries are few and small, so one call after the other will do.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (t *transport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, in *raft.AppendEntriesRequest, out *raft.AppendEntriesResponse) error {
	wait := callWait
	if len(in.Entries) > 0 {
		wait = appendWait
	}
	r, err := t.call(id, wait, request{Append: in}, nil)
	return answer(out, r.Append, err)
}

func (t *transport) RequestVote(id raft.ServerID, _ raft.ServerAddress, in *raft.RequestVoteRequest, out *raft.RequestVoteResponse) error {
	r, err := t.call(id, callWait, request{Vote: in}, nil)
	return answer(out, r.Vote, err)
}

func (t *transport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, in *raft.RequestPreVoteRequest, out *raft.RequestPreVoteResponse) error {
	r, err := t.call(id, callWait, request{PreVote: in}, nil)
	return answer(out, r.PreVote, err)
}

func (t *transport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, in *raft.TimeoutNowRequest, out *raft.TimeoutNowResponse) error {
	r, err := t.call(id, handOverWait, request{Timeout: in}, nil)
	return answer(out, r.Timeout, err)
}

// standNow is the word to stand for election at once.
func (t *transport) standNow() *raft.TimeoutNowRequest {
	return &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(t.id), Addr: []byte(t.id)}}
}

func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, in *raft.InstallSnapshotRequest, out *raft.InstallSnapshotResponse, data io.Reader) error {
	r, err := t.call(id, snapshotWait, request{Snapshot: in}, data)
	return answer(out, r.Snapshot, err)
}

func answer[T any](out, got *T, err error) error {
	if err != nil {
		return err
	}
	if got == nil {
		return errors.New("the answer is to another question")
	}
	*out = *got
	return nil
}

// call sends one request, with data behind it, and waits for the answer.
func (t *transport) call(id raft.ServerID, wait time.Duration, in request, data io.Reader) (response, error) {
	c, err := t.stream(id, wait)
	if err != nil {
		return response{}, fmt.Errorf("open raft stream to %s: %w", id, err)
	}
	in.To = id
	out, err := exchange(c, wait, in, data)
	if err != nil {
		t.drop(id, c)
		return response{}, fmt.Errorf("raft call to %s: %w", id, err)
	}
	t.keep(id, c)
	if out.Err != "" {
		return response{}, fmt.Errorf("raft call to %s: %s", id, out.Err)
	}
	return out, nil
}

func exchange(c net.Conn, wait time.Duration, in request, data io.Reader) (response, error) {
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return response{}, err
	}
	if err := writeFrame(c, in); err != nil {
		return response{}, err
	}
	if data != nil {
		if _, err := io.Copy(c, data); err != nil {
			return response{}, err
		}
	}
	var out response
	err := readFrame(c, frameBytesMax, &out)
	return out, err
}

// stream returns an idle stream to the server, or opens one.
func (t *transport) stream(id raft.ServerID, wait time.Duration) (net.Conn, error) {
	t.mu.Lock()
	if idle := t.idle[id]; len(idle) > 0 {
		c := idle[len(idle)-1]
		t.idle[id] = idle[:len(idle)-1]
		t.mu.Unlock()
		return c, nil
	}
	t.mu.Unlock()
	ctx, cancel := t.opening(wait)
	defer cancel()
	c, err := t.net.Open(ctx, nodeOf(id), "", StreamRaft)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		c.Close()
		return nil, errStopped
	}
	t.open[c] = struct{}{}
	return c, nil
}

// keep puts a stream aside for the next call.
func (t *transport) keep(id raft.ServerID, c net.Conn) {
	t.mu.Lock()
	if !t.closed && len(t.idle[id]) < idleStreams {
		t.idle[id] = append(t.idle[id], c)
		t.mu.Unlock()
		return
	}
	delete(t.open, c)
	t.mu.Unlock()
	c.Close()
}

// drop closes a stream that failed, and the idle ones to the same server, which go the same way.
func (t *transport) drop(id raft.ServerID, c net.Conn) {
	t.mu.Lock()
	gone := append(t.idle[id], c)
	if !t.closed {
		t.idle[id] = nil
	}
	for _, c := range gone {
		delete(t.open, c)
	}
	t.mu.Unlock()
	for _, c := range gone {
		c.Close()
	}
}

// serve hands a request to raft and returns its answer; data is what follows a snapshot.
func (t *transport) serve(in request, data io.Reader) response {
	answer := make(chan raft.RPCResponse, 1)
	call := raft.RPC{RespChan: answer}
	beat := false
	switch {
	case in.To != t.id:
		return response{Err: errNoVote.Error()}
	case in.Append != nil:
		call.Command = in.Append
		beat = isHeartbeat(in.Append)
	case in.Vote != nil:
		call.Command = in.Vote
	case in.PreVote != nil:
		call.Command = in.PreVote
	case in.Timeout != nil:
		call.Command = in.Timeout
	case in.Snapshot != nil:
		call.Command, call.Reader = in.Snapshot, data
	default:
		return response{Err: "unknown call: run a newer program"}
	}
	t.mu.Lock()
	heartbeat := t.heartbeat
	t.mu.Unlock()
	if beat && heartbeat != nil {
		heartbeat(call)
	} else {
		select {
		case t.calls <- call:
		case <-t.done:
			return response{Err: errStopped.Error()}
		}
	}
	select {
	case r := <-answer:
		return toResponse(r)
	case <-t.done:
		return response{Err: errStopped.Error()}
	}
}

// sound checks what raft takes for granted, and panics without.
func (in request) sound() (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the call holds a list of voters that cannot be read")
		}
	}()
	if in.Snapshot != nil {
		raft.DecodeConfiguration(in.Snapshot.Configuration)
	}
	if in.Append == nil {
		return nil
	}
	for _, l := range in.Append.Entries {
		if l == nil {
			return errors.New("the call holds an entry that is none")
		}
		if l.Type == raft.LogConfiguration {
			raft.DecodeConfiguration(l.Data)
		}
	}
	return nil
}

// isHeartbeat as raft's NetworkTransport tells them.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

func toResponse(r raft.RPCResponse) response {
	var out response
	if r.Error != nil {
		out.Err = r.Error.Error()
	}
	switch v := r.Response.(type) {
	case *raft.AppendEntriesResponse:
		out.Append = v
	case *raft.RequestVoteResponse:
		out.Vote = v
	case *raft.RequestPreVoteResponse:
		out.PreVote = v
	case *raft.TimeoutNowResponse:
		out.Timeout = v
	case *raft.InstallSnapshotResponse:
		out.Snapshot = v
	}
	return out
}

// sender is the server id that a request says it comes from.
func (in request) sender() string {
	var h raft.RPCHeader
	switch {
	case in.Append != nil:
		h = in.Append.RPCHeader
	case in.Vote != nil:
		h = in.Vote.RPCHeader
	case in.PreVote != nil:
		h = in.PreVote.RPCHeader
	case in.Timeout != nil:
		h = in.Timeout.RPCHeader
	case in.Snapshot != nil:
		h = in.Snapshot.RPCHeader
	}
	return string(h.ID)
}

func nodeOf(id raft.ServerID) topology.NodeID { return Server(id).Node() }
