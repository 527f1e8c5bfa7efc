package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/consensus"
	"weir/node/api"
	"weir/topology"
)

func TestChanges(t *testing.T) {
	role := func(name string, edit func(*topology.Role)) topology.Role {
		r := topology.Role{Name: name, Kind: topology.KindEach}
		if edit != nil {
			edit(&r)
		}
		return r
	}
	a, b := topology.Edge{From: "in", To: "a"}, topology.Edge{From: "a", Port: "err", To: "b"}
	old := consensus.Pipeline{
		Pipeline: topology.Pipeline{Name: "p", Version: 4, Graph: topology.Graph{Edges: []topology.Edge{a}}, Roles: []topology.Role{role("a", nil), role("x", nil)}},
		Failed:   &consensus.Failure{Reason: "a bug"},
	}
	p := topology.Pipeline{Name: "p", RecordMax: 1 << 22, Graph: topology.Graph{Edges: []topology.Edge{b}}, Roles: []topology.Role{
		role("a", func(r *topology.Role) {
			r.Kind, r.Send, r.Needs = topology.KindLine, topology.SendSplit, []string{"gpu"}
		}),
		role("b", nil),
	}}
	want := []string{
		"~ role a: kind each -> line", "~ role a: send copy -> split", "~ role a: needs nothing -> gpu",
		"+ role b (each)", "+ edge a.err -> b", "- edge in -> a", "- role x",
		"~ record-max: 1048576 -> 4194304 bytes", "~ it failed, and starts again: a bug",
	}
	if diff := cmp.Diff(want, changes(old, p)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestLacks(t *testing.T) {
	p := topology.Pipeline{Name: "p", Roles: []topology.Role{
		{Name: "a", Kind: topology.KindEach},
		{Name: "b", Kind: topology.KindEach, Needs: []string{"gpu"}},
		{Name: "c", Kind: topology.KindEach},
	}}
	s := &consensus.State{Roster: []topology.Node{
		{ID: "n1", Roles: []string{"a", "b"}},
		{ID: "n2", Roles: []string{"p/a", "b"}, Tags: []string{"gpu"}},
		{ID: "n3", Roles: []string{"q/a"}},
		{ID: "n4", Roles: []string{"a"}},
	}}
	all := map[topology.NodeID]report{
		"n1": {Programs: map[string]string{"a": "11"}},
		"n2": {Programs: map[string]string{"p/a": "22", "b": "33"}},
		"n3": {Programs: map[string]string{"q/a": "44"}},
	}
	r := api.Revision{Pipeline: p, Programs: map[string]string{"a": "11", "b": "33", "c": "55"}}
	want := []string{
		"n2: role a runs another program than this file: start the node again with it",
		"n1: role b needs gpu, which the node has not: start it with --tag gpu",
		"no node serves role c yet",
	}
	if diff := cmp.Diff(want, lacks(s, r, all)); diff != "" {
		t.Errorf("lacks (-want +got):\n%s", diff)
	}
}
