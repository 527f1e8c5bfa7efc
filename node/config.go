package node

import (
	"log/slog"
	"net"
	"time"

	"weir/stream"
	"weir/topology"
)

// Role is what a node does in a pipeline: exactly one of Handler, Tap and Sink. A Handler that has
// a method Run(context.Context) error as well is run as long as the role is.
type Role struct {
	Name     string // "role" wherever a pipeline names it, "pipeline/role" only there
	Capacity int    // records worked on at once; 0 = 50
	Attempts int    // how often a record may fail before it is a dead letter; 0 = 3
	// Deadline is how long a Handler may be without progress before its records have failed: see
	// stream.InletConfig. 0 = for ever.
	Deadline time.Duration
	Program  string // a hash of what it does, by which plan sees whether nodes do the same; "" = not told
	Handler  stream.Handler
	Tap      stream.Tap
	Sink     stream.Sink
}

// Config says what a node is. The zero value is a cluster of one on :7411, in memory, with no role.
type Config struct {
	ID        topology.NodeID // "" = made from the first role and a random part
	Roles     []Role
	Tags      []string            // what the node has that a role may need, at most 16
	Pipelines []topology.Pipeline // created if the cluster has none of that name
	Join      []string            // host:port of nodes of the cluster; none: make a cluster of one
	Secret    []byte              // 32 bytes; nil: made at random, only for a cluster of one
	Listen    string              // host:port of the one UDP port; "" = :7411
	Advertise string              // host or host:port told to others; "" = the address bound, or that of the way to Join
	HTTP      string              // host:port of the API on loopback; "" = none
	Socket    string              // path of the API's Unix socket; "" = none
	DataDir   string              // where what a restart needs is kept, one node's alone; "" = nothing is kept
	Memory    int64               // bytes of records held; 0 = 64 MiB
	Voters    int                 // target number of raft voters, 1 to 5; 0 = 3
	Conn      net.PacketConn      // instead of Listen: the simulator's
	Hooks     *Hooks              // the simulator's; nil = none
	Log       *slog.Logger        // nil = discard
	Logbook   *Logbook            // what Log goes to, for weir logs; nil = none is kept

	// DeadLetters says what becomes of a record that a role of this node cannot handle: it is kept in
	// DataDir, or else in that of another node, and waits where no node has one; false: its pipeline
	// fails.
	DeadLetters bool

	// Broken is told, from any goroutine, that DataDir can no longer be written, and should end the
	// process there and then: a call to a disk that hangs cannot be waited for. nil: Run ends with
	// the error, if it can.
	Broken func(error)
}
