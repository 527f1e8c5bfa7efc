package sim

import (
	"fmt"
	"strings"
	"time"

	"weir/topology"
)

// This file is pure.

// Role is one role of a scenario.
type Role struct {
	Name     string
	Kind     topology.Kind // tap, sink or go
	Nodes    int
	Capacity int           // 0 = the product's default
	Takes    time.Duration // of the handler, a record; of a sink, a write
	Send     topology.Send // "" = copy
	Tagged   int           // of its nodes, the first, that have the tag it needs; 0 = it needs none
	Deadline time.Duration // of a handler's progress; 0 = none

	Partitions int           // of a tap, on each node; 0 = 1
	Shared     bool          // all nodes of the tap see the same ones
	Live       bool          // what was read of them cannot be read again
	Takeover   time.Duration // 0 = the product's default

	// Shares of the records that it is given.
	Fails   float64 // the first attempts fail
	Poisons float64 // no attempt passes
	Hangs   float64 // no attempt ends by itself
	Kills   float64 // each attempt ends its node
	Pairs   float64 // two are made of it
}

// needs are the tags that a node must have to work for the role.
func (r Role) needs() []string {
	if r.Tagged == 0 {
		return nil
	}
	return []string{"tagged"}
}

// inputs is how many partitions the role reads in all.
func (r Role) inputs() int {
	switch n := max(r.Partitions, 1); {
	case r.Kind != topology.KindTap:
		return 0
	case r.Shared:
		return n
	default:
		return n * r.Nodes
	}
}

// hopeless is the share of records that end as dead letters.
func (r Role) hopeless() float64 { return r.Poisons + r.Hangs + r.Kills }

// roleWords are what may be said of a role, each with a value.
var roleWords = []string{
	"nodes", "capacity", "takes", "fails", "tagged", "deadline", "poisons", "hangs", "kills", "pairs",
	"partitions", "shared", "live", "takeover",
}

// role reads "NAME [WORD VALUE]...".
func (p *parser) role(words []string) (err error) {
	if len(words) == 0 || len(words)%2 == 0 {
		return fmt.Errorf("want: role NAME, and pairs of a word and its value: %s", strings.Join(roleWords, ", "))
	}
	r := Role{Name: words[0], Takes: -1}
	for i := 1; i < len(words) && err == nil; i += 2 {
		err = r.set(words[i], words[i+1])
	}
	if _, twice := p.given[r.Name]; twice && err == nil {
		err = fmt.Errorf("role %s is described twice", r.Name)
	}
	p.given[r.Name] = r
	return err
}

// set reads the value of one word.
func (r *Role) set(word, value string) (err error) {
	switch word {
	case "nodes":
		r.Nodes, err = number(value, 1, nodesMax)
	case "capacity":
		r.Capacity, err = number(value, 1, 4096)
	case "takes":
		r.Takes, err = duration(value)
	case "fails":
		r.Fails, err = share(value)
	case "tagged":
		r.Tagged, err = number(value, 1, nodesMax)
	case "deadline":
		r.Deadline, err = duration(value)
	case "poisons":
		r.Poisons, err = share(value)
	case "hangs":
		r.Hangs, err = share(value)
	case "kills":
		r.Kills, err = share(value)
	case "pairs":
		r.Pairs, err = share(value)
	case "partitions", "shared", "live":
		r.Partitions, err = number(value, 1, 64)
		r.Shared, r.Live = word == "shared", word == "live"
	case "takeover":
		r.Takeover, err = duration(value)
	default:
		err = unknown("word", word, roleWords...)
	}
	return err
}

// sound checks what a role's words say together.
func (r *Role) sound(disks bool) error {
	of := func(format string, args ...any) error {
		return fmt.Errorf("role "+r.Name+": "+format, args...)
	}
	switch {
	case r.Tagged > r.Nodes:
		return of("%d nodes tagged, and it has %d", r.Tagged, r.Nodes)
	case r.hopeless() > 0 && !disks:
		return of("dead letters need disks: say \"disks\"")
	case r.Fails+r.hopeless() >= 1:
		return of("more records fail than there are")
	case r.Kind == topology.KindTap && (r.Fails+r.hopeless() > 0 || r.Deadline > 0 || r.Pairs > 0):
		return of("it is given no records, it reads them")
	case r.Kind != topology.KindTap && (r.Partitions > 0 || r.Takeover > 0):
		return of("only a tap has partitions")
	case r.Takeover > 0 && !r.Shared:
		return of("takeover is of shared partitions, as shared 3")
	case r.Kind == topology.KindSink && (r.Fails > 0 || r.Hangs > 0 || r.Kills > 0 || r.Deadline > 0 || r.Pairs > 0):
		return of("of a sink only poisons can be said: handlers fail, hang, kill, make pairs and have a deadline")
	case r.Hangs > 0 && r.Deadline == 0:
		return of("hangs needs a deadline, as deadline 2s")
	}
	return nil
}
