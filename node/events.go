package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"weir/consensus"
	"weir/node/api"
	"weir/topology"
)

// eventsMax is how many events a node remembers: a day of a cluster in which little happens, and some
// 300 KiB.
const eventsMax = 1024

// watchEvents makes events of what changes in the State, until ctx is done.
func (n *Node) watchEvents(ctx context.Context) error {
	var before *consensus.State
	for {
		changed := n.consensus.Changed()
		now := n.consensus.State()
		if before != nil {
			for _, e := range eventsBetween(before, now) {
				e.Time = time.Now()
				n.events.add(e)
			}
		}
		before = now
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// eventsBetween says what has changed from one State to a later one, but for times. Pure.
func eventsBetween(old, now *consensus.State) (es []api.Event) {
	add := func(kind, name, text string, args ...any) {
		es = append(es, api.Event{Index: now.Index, Kind: kind, Name: name, Text: fmt.Sprintf(text, args...)})
	}
	if now.Term > old.Term {
		add("leader", string(now.Leader), "leads in term %d", now.Term)
	}
	if !slices.Equal(old.Voters, now.Voters) {
		add("voters", "", "vote: %s", join(now.Voters))
	}
	for _, is := range now.Roster {
		was, known := old.Node(is.ID)
		switch {
		case !known:
			add("node", string(is.ID), "joined at %s with %s", is.Addr, rolesOf(is))
		case was.Boot != is.Boot:
			add("node", string(is.ID), "started again, at %s", is.Addr)
		case was.Addr != is.Addr:
			add("node", string(is.ID), "moved to %s", is.Addr)
		}
	}
	for _, was := range old.Roster {
		if _, stays := now.Node(was.ID); stays {
			continue
		}
		if now.HasLeft(was.ID, was.Boot) {
			add("node", string(was.ID), "left")
		} else {
			add("node", string(was.ID), "is gone")
		}
	}
	for _, is := range now.Pipelines {
		was, known := old.Pipeline(is.Name)
		if !known {
			add("pipeline", is.Name, "is new: %s", oneLine(is.Graph))
			continue
		}
		pipelineChanges(was, is, func(name, text string, args ...any) { add("pipeline", name, text, args...) })
		claimChanges(was, is, func(name, text string, args ...any) { add("claim", name, text, args...) })
	}
	return es
}

func pipelineChanges(was, is consensus.Pipeline, add func(name, text string, args ...any)) {
	if was.Version != is.Version {
		add(is.Name, "is at version %d: %s", is.Version, oneLine(is.Graph))
	}
	switch {
	case was.Failed == nil && is.Failed != nil:
		add(is.Name, "failed: %s", is.Failed.Reason)
	case was.Failed != nil && is.Failed == nil:
		add(is.Name, "runs again")
	}
	if was.Paused != is.Paused {
		add(is.Name, "%s", pauseText[is.Paused])
	}
	for _, role := range union(was.PausedRoles, is.PausedRoles) {
		before, after := slices.Contains(was.PausedRoles, role), slices.Contains(is.PausedRoles, role)
		if before != after {
			add(is.Name+"/"+role, "%s", pauseText[after])
		}
	}
	if !was.Leaving.IsZero() && is.Leaving.IsZero() {
		add(is.Name, "what version %d has no more has ended", is.Version)
	}
}

var pauseText = map[bool]string{true: "is paused", false: "goes on"}

// claimChanges says who reads what, and whose place is gone.
func claimChanges(was, is consensus.Pipeline, add func(name, text string, args ...any)) {
	for _, c := range is.Claims {
		name := is.Name + "/" + c.Role
		before, known := was.Claim(c.Role, c.Partition)
		switch {
		case (!known || before.Holder != c.Holder || before.Boot != c.Boot) && c.Holder != "":
			add(name, "%s reads %s, claim %d", c.Holder, c.Partition, c.Number)
		case known && before.Holder != "" && c.Holder == "":
			add(name, "nobody reads %s", c.Partition)
		}
		if known && before.Gen != 0 && before.Gen != c.Gen {
			add(name, "%s is read from its start again", c.Partition)
		}
		if c.Done && !before.Done {
			add(name, "%s is read to its end", c.Partition)
		}
	}
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func oneLine(g topology.Graph) string { return strings.ReplaceAll(g.String(), "\n", "; ") }

func rolesOf(n topology.Node) string {
	if len(n.Roles) == 0 {
		return "no role"
	}
	return strings.Join(n.Roles, ", ")
}

func join(ids []topology.NodeID) string {
	var names []string
	for _, id := range ids {
		names = append(names, string(id))
	}
	return strings.Join(names, ", ")
}

// listEvents tells the events that this node remembers, and with follow those that come.
func (n *Node) listEvents(ctx context.Context, q url.Values, _ api.Body, tell func(any) error) error {
	events, _, next, more := n.events.after(0)
	for {
		if err := tell(events); err != nil {
			return err
		}
		if q.Get("follow") != "true" {
			return nil
		}
		if err := n.await(ctx, more, tell); err != nil {
			return err
		}
		events, _, next, more = n.events.after(next)
	}
}

// await waits until more is closed, and meanwhile tells now and then that there is nothing: who asked
// and has gone is noticed so.
func (n *Node) await(ctx context.Context, more <-chan struct{}, tell func(any) error) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-more:
			return nil
		case <-tick.C:
			if err := tell([]json.RawMessage{}); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
