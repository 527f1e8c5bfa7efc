package main

import (
	"strings"
	"testing"

	"weir/node/spec"
)

func TestPlanNodes(t *testing.T) {
	tests := []struct {
		name   string
		text   string
		voters int
		want   string
	}{
		{"a fellow each makes good voters",
			"a -> b -> c -> d | a: {tap: {stdin: true}}, b: {exec: [cat], nodes: 2}, c: {exec: [cat], nodes: 2}, d: {sink: {discard: true}}",
			3, "a-1:a b-1:b b-2:b c-1:c c-2:c d-1:d"},
		{"a node alone in its role is none",
			"a -> b -> d | a: {tap: {stdin: true}}, b: {exec: [cat]}, d: {sink: {discard: true}}",
			3, "a-1:a b-1:b d-1:d voter-1: voter-2: voter-3:"},
		{"the rest is filled up",
			"a -> b -> d | a: {tap: {stdin: true}}, b: {exec: [cat], nodes: 2}, d: {sink: {file: 'x-{node}'}, nodes: 5}",
			3, "a-1:a b-1:b b-2:b d-1:d d-2:d d-3:d d-4:d d-5:d voter-1:"},
		{"taps come first",
			"a -> c, b -> c | a: {tap: {file: x}}, b: {tap: {file: y}}, c: {sink: {discard: true}}",
			1, "a-1:a b-1:b c-1:c voter-1:"},
		{"a role may be called voter",
			"voter -> c | voter: {tap: {file: x}}, c: {sink: {discard: true}}",
			2, "voter-1:voter c-1:c voter-2: voter-3:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			graph, roles, _ := strings.Cut(tt.text, " | ")
			lines := strings.ReplaceAll(graph, ", ", "\n  ")
			f, err := spec.Parse("t.yaml", []byte("pipeline: p\ngraph: |\n  "+lines+"\nroles: {"+roles+"}\n"), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range planNodes(f, tt.voters) {
				got = append(got, n.ID+":"+n.Role)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("planNodes = %s\nwant        %s", s, tt.want)
			}
		})
	}
}
