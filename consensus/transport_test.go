package consensus

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"weir/topology"
)

func TestRaftCallsThatAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(3, 2)
		to := ms[1]
		id := to.vote().id
		from := raft.RPCHeader{ID: []byte("n1/whatever"), Addr: []byte("n1/whatever")}
		for _, tt := range []struct {
			name string
			from topology.NodeID
			in   request
			want string
		}{
			{"to a store that is gone", "n1", request{To: "n2/gone", Vote: &raft.RequestVoteRequest{RPCHeader: from}}, "has not that vote"},
			{"in another's name", "n3", request{To: id, Vote: &raft.RequestVoteRequest{RPCHeader: from}}, "node n3 calls as server n1/whatever"},
			{"without a name", "n1", request{To: id, Vote: &raft.RequestVoteRequest{}}, "node n1 calls as server "},
			{"of a newer program", "n1", request{To: id}, "node n1 calls as server "},
			{"with no entry", "n1", request{To: id, Append: &raft.AppendEntriesRequest{RPCHeader: from, Entries: []*raft.Log{nil}}}, "an entry that is none"},
			{"with bad voters", "n1", request{To: id, Append: &raft.AppendEntriesRequest{RPCHeader: from, Entries: []*raft.Log{{Type: raft.LogConfiguration, Data: []byte{0xc1}}}}}, "voters that cannot be read"},
			{"with bad voters in a snapshot", "n1", request{To: id, Snapshot: &raft.InstallSnapshotRequest{RPCHeader: from, Configuration: []byte{0xc1}}}, "voters that cannot be read"},
			{"stand, by no voter", "n3", request{Stand: true}, "n3 is no voter as far as this node knows"},
		} {
			if got := to.serveRaft(to.ctx, tt.from, tt.in, strings.NewReader("")); !strings.Contains(got.Err, tt.want) || got.Err == "" {
				t.Errorf("%s: %+v, want %q", tt.name, got, tt.want)
			}
		}
		if got := ms[2].serveRaft(to.ctx, "n1", request{To: "n3/x", Vote: &raft.RequestVoteRequest{RPCHeader: from}}, nil); got.Err != errNoVote.Error() {
			t.Errorf("a watcher answers %+v", got)
		}
	})
}

func TestHugeSnapshotEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(t)
		defer f.stopAll()
		m := f.start(1)
		awaitLeader(t, 2*time.Second, m)
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() { m.HandleRaft(t.Context(), "n2", theirs); close(done) }()
		if err := writeFrame(ours, request{To: m.vote().id, Snapshot: &raft.InstallSnapshotRequest{Size: 1 << 60}}); err != nil {
			t.Fatal(err)
		}
		<-done
	})
}

// Heartbeats have streams of their own: one that is stuck with entries holds up none.
func TestCallsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := &pipes{served: make(chan net.Conn, 10)}
		tr := newTransport(t.Context(), peers, "n1/a")
		call := func(entries ...*raft.Log) chan error {
			done := make(chan error, 1)
			go func() {
				done <- tr.AppendEntries("n2/b", "n2/b", &raft.AppendEntriesRequest{Entries: entries}, new(raft.AppendEntriesResponse))
			}()
			return done
		}
		stuck := call(&raft.Log{})
		stream := <-peers.served
		synctest.Wait()
		beat := call()
		other := <-peers.served
		var in request
		if err := readFrame(other, frameBytesMax, &in); err != nil {
			t.Fatal(err)
		}
		if err := writeFrame(other, response{Append: &raft.AppendEntriesResponse{Success: true}}); err != nil {
			t.Fatal(err)
		}
		if err := <-beat; err != nil {
			t.Errorf("heartbeat: %v", err)
		}
		start := time.Now()
		if err := <-stuck; err == nil || time.Since(start) > appendWait {
			t.Errorf("call without an answer: %v after %v", err, time.Since(start))
		}
		// The idle stream to a server that does not answer is given up with it.
		if tr.mu.Lock(); len(tr.idle["n2/b"]) != 0 || len(tr.open) != 0 {
			t.Errorf("%d idle, %d open streams, want none", len(tr.idle["n2/b"]), len(tr.open))
		}
		tr.mu.Unlock()
		last := call()
		synctest.Wait()
		tr.Close()
		if err := <-last; err == nil {
			t.Error("a call outlives its transport")
		}
		stream.Close()
	})
}

// pipes hands the far end of every stream out.
type pipes struct{ served chan net.Conn }

func (p *pipes) Open(context.Context, topology.NodeID, string, Stream) (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.served <- theirs
	return ours, nil
}
