package sim

import (
	"weir/node/spec"
	"weir/topology"
)

// This file is pure.

// ShapeOf is the cluster of a pipeline file: its graph, with synthetic workers in place of its
// programs and numbered records in place of what its taps read.
func ShapeOf(f *spec.File) Shape {
	s := Shape{Graph: f.Pipeline.Graph}
	for _, name := range f.Pipeline.Graph.Roles() {
		of := f.Roles[name]
		r := Role{Name: name, Kind: of.Kind(), Nodes: of.Nodes, Capacity: of.Capacity, Send: of.Send}
		if r.Kind != topology.KindTap && r.Kind != topology.KindSink {
			r.Kind, r.Takes = topology.KindGo, takesDefault
		}
		s.Roles = append(s.Roles, r)
	}
	return s
}
