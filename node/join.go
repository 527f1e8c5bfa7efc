package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/gossip"
	"weir/stream/mux"
	"weir/topology"
)

const (
	// seedsEvery is the pause between two rounds of asking the seeds. They are asked only to say
	// what this node waits for: the log and gossip find their own way in.
	seedsEvery = time.Second
	// logWait is how long the log of a seed that was found may be on its way: a second on a busy
	// machine, in which a watcher tries ten times.
	logWait = 2 * time.Second
	// leaderWait is how long a cluster that has started again may take to have a leader before we
	// say that it has none: several elections.
	leaderWait = 3 * time.Second
	// saidEvery is how often what this node waits for is said again.
	saidEvery = time.Minute
	// knockWait is how long an answer to a bare packet may take: as long as the kernel looks for a
	// machine in its own network, three seconds (arp(7)), and a little.
	knockWait = 3300 * time.Millisecond
)

// noCluster is why a seed that answers does not bring us into a cluster.
const noCluster = "it belongs to no cluster yet: run weir cluster init on one of the nodes"

// sayWaiting says what this node waits for, and why, until it belongs to a cluster: each
// reason when it is new, and once a minute, though seeds may answer differently from try to try.
func (n *Node) sayWaiting(ctx context.Context) error {
	if n.consensus.State().LogID != 0 {
		return n.sayLeaderless(ctx)
	}
	if len(n.cfg.Join) == 0 {
		return nil
	}
	var said []string // since saidAt
	var saidAt time.Time
	for joined := false; !joined; joined = joined || n.joined(ctx, seedsEvery) {
		why := n.askSeeds(ctx)
		grace := time.Duration(0)
		if strings.Contains(why, noCluster) {
			grace = logWait
		}
		joined = n.joined(ctx, grace)
		switch {
		case ctx.Err() != nil:
			return nil
		case joined:
			continue
		case time.Since(saidAt) > saidEvery:
			said, saidAt = nil, time.Now()
		}
		if !slices.Contains(said, why) {
			n.log.Warn("waiting for a cluster", "why", why)
			said = append(said, why)
		}
	}
	n.log.Info("joined the cluster", "cluster", n.mux.ClusterID(), "log", logName(n.consensus.State().LogID))
	return nil
}

// sayLeaderless says of a node that has started again who it waits for, until it hears of a leader:
// after a while, and once a minute.
func (n *Node) sayLeaderless(ctx context.Context) error {
	var saidAt time.Time
	for {
		select {
		case <-time.After(leaderWait):
		case <-ctx.Done():
			return nil
		}
		if n.consensus.Quorum() {
			return nil
		}
		if time.Since(saidAt) < saidEvery {
			continue
		}
		voters := n.consensus.State().Voters
		away := slices.Clone(voters)
		for _, m := range n.gossip.Members() {
			if m.State == gossip.StateAlive {
				away = slices.DeleteFunc(away, func(id topology.NodeID) bool { return id == m.ID })
			}
		}
		n.log.Warn("waiting for a leader, whom a majority of the voters elects", "voters", voters, "away", away)
		saidAt = time.Now()
	}
}

// joined reports whether this node belongs to a cluster, after a wait at most.
func (n *Node) joined(ctx context.Context, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		changed := n.consensus.Changed()
		if n.consensus.State().LogID != 0 {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// logName is how people are shown the id of a log.
func logName(id uint64) string { return fmt.Sprintf("%016x", id) }

// askSeeds asks all seeds at once, and returns a sentence for each reason, with the seeds that
// have it.
func (n *Node) askSeeds(ctx context.Context) string {
	reasons := make([]string, len(n.cfg.Join))
	var group sync.WaitGroup
	for i, seed := range n.cfg.Join {
		group.Go(func() { reasons[i] = n.askSeed(ctx, seed) }) // ended by the dial's own limit
	}
	group.Wait()
	var text []string
	for i, why := range reasons {
		if why == "" || slices.Contains(reasons[:i], why) {
			continue
		}
		var with []string
		for j := range reasons {
			if reasons[j] == why {
				with = append(with, n.cfg.Join[j])
			}
		}
		text = append(text, strings.Join(with, ", ")+": "+why)
	}
	return strings.Join(text, "; ")
}

// askSeed returns why a seed does not bring us into a cluster.
func (n *Node) askSeed(ctx context.Context, seed string) string {
	heard := make(chan error, 1)
	knocking, stop := context.WithCancel(ctx)
	defer stop()
	go func() { heard <- n.knock(knocking, seed) }() // ended by stop, and waited for
	peer, err := n.mux.Resolve(ctx, seed)
	if err == nil || !errors.Is(err, mux.ErrNoAnswer) {
		stop()
	}
	knocked := <-heard
	switch {
	case err == nil && peer.ID == n.self.ID && len(n.cfg.Join) > 1:
		return "" // N nodes are started with one command line
	case err == nil && peer.ID == n.self.ID:
		return "that is this node itself, which belongs to no cluster: join another, or run weir cluster init"
	case err == nil:
		return noCluster
	case errors.Is(err, mux.ErrNoAnswer) && knocked != nil:
		err = knocked
	}
	return sentence(err)
}

// sentence says in our words what the network says in its.
func sentence(err error) string {
	dns, unknown := errors.AsType[*net.DNSError](err)
	switch {
	case unknown:
		return fmt.Sprintf("the name does not resolve, is it spelled right? (%v)", dns)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens on that UDP port: is the node started, and the port right?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to that address: is it right, and the network up?"
	case errors.Is(err, syscall.EPERM):
		return "this machine's own firewall forbids UDP to it: allow it there"
	case errors.Is(err, mux.ErrNoAnswer):
		return "no answer: is a node running there, is the address right, and its UDP port open in every firewall between?"
	}
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "resolve ") {
		err = inner // the seed is named
	}
	return err.Error()
}

// knock sends a bare packet to a seed from a socket of its own, whose errors tell what silence
// does not: that nobody listens there, that there is no way there, or that somebody answers who
// is no node. nil: nothing was heard.
func (n *Node) knock(ctx context.Context, seed string) error {
	if _, real := n.conn.(*net.UDPConn); !real {
		return nil // a simulated network has no other sockets
	}
	conn, err := (&net.Dialer{Control: reportErrors}).DialContext(ctx, "udp", seed)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(knockWait)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{0}); err != nil { // which nodes count and drop
		return err
	}
	var b [1]byte
	if _, err := conn.Read(b[:]); err == nil {
		return mux.ErrNotWeir
	} else if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
		return err
	}
	return nil
}

// reportErrors has a socket tell that nobody has an address, too (IP_RECVERR, ip(7)).
func reportErrors(network, _ string, raw syscall.RawConn) error {
	level, option := syscall.IPPROTO_IP, syscall.IP_RECVERR
	if network == "udp6" {
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR
	}
	var refused error
	err := raw.Control(func(fd uintptr) { refused = syscall.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, refused)
}

// checkSeed refuses what is no HOST:PORT.
func checkSeed(seed string) error {
	host, port, err := net.SplitHostPort(seed)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
		return &usageError{fmt.Sprintf("--join %s: want HOST:PORT, as 10.0.0.1%s", seed, defaultPort)}
	}
	return nil
}
