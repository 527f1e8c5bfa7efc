package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"weir/node/api"
)

// Nodes started with one command line wait for one init on any of them; a second is refused.
func TestInit(t *testing.T) {
	t.Parallel()
	secret := newSecret()
	join := []string{freePort(t), freePort(t), freePort(t)}
	var nodes []*Node
	var logs []*lines
	for _, addr := range join {
		n, log := runLogged(t, Config{Secret: secret, Listen: addr, Join: join})
		nodes, logs = append(nodes, n), append(logs, log)
	}
	for i, log := range logs {
		line := log.await(t, "waiting for a cluster", 10*time.Second)
		if !strings.Contains(line, "it belongs to no cluster yet: run weir cluster init on one of the nodes") || strings.Contains(line, join[i]) {
			t.Errorf("%s waits with %s", join[i], line)
		}
	}
	made, err := nodes[1].Init(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, log := range logs {
		if line := log.await(t, "joined the cluster", 10*time.Second); !strings.Contains(line, made.Log) {
			t.Errorf("%s: %s, want log %s", join[i], line, made.Log)
		}
	}
	refused := func(n *Node, want string) {
		t.Helper()
		_, err := n.Init(t.Context())
		var failure *api.Error
		if !errors.As(err, &failure) || failure.Text != want || failure.Exit != 1 {
			t.Errorf("a second init: %v, want %s", err, want)
		}
	}
	for _, n := range nodes {
		refused(n, "cluster "+made.Cluster+": there is a cluster already: this node belongs to log "+made.Log)
	}
}

// A node that is told to make a cluster first asks its seeds.
func TestInitAsksTheSeeds(t *testing.T) {
	t.Parallel()
	secret := newSecret()
	first, _ := runLogged(t, Config{Secret: secret})
	for first.View().Leader == "" {
		time.Sleep(10 * time.Millisecond)
	}
	late, _ := runLogged(t, Config{Secret: secret, Join: []string{first.Addr()}})
	if _, err := late.Init(t.Context()); err == nil || !strings.Contains(err.Error(), "there is a cluster already: ") {
		t.Errorf("init of a node whose seed belongs to a cluster: %v", err)
	}
}

// Two clusters of one secret that were initialised apart say so on both sides, once, and stay
// apart.
func TestInitApart(t *testing.T) {
	t.Parallel()
	secret := newSecret()
	addr := freePort(t)
	a, aLog := runLogged(t, Config{Secret: secret, Join: []string{addr}})
	aMade, err := a.Init(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, bLog := runLogged(t, Config{Secret: secret, Listen: addr})
	aLine := aLog.await(t, "connection refused", 15*time.Second)
	bLine := bLog.await(t, "connection refused", 15*time.Second)
	bMade := logName(b.consensus.State().LogID)
	for _, line := range []string{aLine, bLine} {
		for _, want := range []string{aMade.Log, bMade, "initialised apart: keep one of the two"} {
			if !strings.Contains(line, want) {
				t.Errorf("%q is not in %s", want, line)
			}
		}
	}
	time.Sleep(3 * time.Second) // it is tried every half second
	for _, log := range []*lines{aLog, bLog} {
		if found := log.with("level=WARN"); len(found) != 1 {
			t.Errorf("said %d times:\n%s", len(found), strings.Join(found, ""))
		}
	}
	if x, y := a.View().Roster, b.View().Roster; len(x) != 1 || len(y) != 1 {
		t.Errorf("rosters %v and %v, want one node each", x, y)
	}
}
