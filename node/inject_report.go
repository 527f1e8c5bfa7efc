package node

import (
	"maps"
	"slices"

	"weir/stream"
)

// What status is told of injections: put taps are shown as taps of the nodes that are asked to put.

// show makes an injection's counts visible.
func (is *injections) show(in *injection, o *stream.Outlet, s *stream.Source) {
	is.mu.Lock()
	defer is.mu.Unlock()
	in.outlet, in.source = o, s
}

// count adds the totals of an injection that has ended to those before.
func (is *injections) count(in *injection) {
	if in.tap == "" {
		return // its edges are in no graph
	}
	r := in.report()
	for i := range r.Edges {
		r.Edges[i].Links, r.Edges[i].InflightRecords, r.Edges[i].CreditUsed, r.Edges[i].CreditLimit = 0, 0, 0, 0
		r.Edges[i].SuspectRecords, r.Edges[i].RetryRecords = 0, 0
	}
	key := roleKey{in.pipeline, in.tap}
	is.mu.Lock()
	defer is.mu.Unlock()
	before, known := is.past[key]
	if known {
		r = before.plus(r)
	}
	is.past[key] = r
}

// report is what all of them have brought, by put tap.
func (is *injections) report() (rs []roleReport) {
	is.mu.Lock()
	all := maps.Clone(is.past)
	running := slices.Collect(maps.Keys(is.running))
	running = slices.DeleteFunc(running, func(in *injection) bool { return in.tap == "" || in.outlet == nil })
	is.mu.Unlock()
	for key, r := range all {
		r.Over = true
		all[key] = r
	}
	for _, in := range running {
		key := roleKey{in.pipeline, in.tap}
		r, known := all[key]
		if !known {
			r = roleReport{Pipeline: in.pipeline, Role: in.tap, Tap: true}
		}
		r = r.plus(in.report())
		r.Over = false
		all[key] = r
	}
	for _, key := range slices.SortedFunc(maps.Keys(all), compareKeys) {
		rs = append(rs, all[key])
	}
	return rs
}

func (in *injection) report() roleReport {
	st := in.source.Stats()
	r := roleReport{Pipeline: in.pipeline, Role: in.tap, Tap: true, Records: st.Read, Lines: st.Lines}
	for _, st := range in.outlet.Stats() {
		st.Edge.Port = "" // as the graph has it
		r.Edges = append(r.Edges, newEdgeReport(in.pipeline, st))
	}
	return r
}

// plus is the sum of two reports of one role.
func (r roleReport) plus(o roleReport) roleReport {
	r.Records += o.Records
	r.Lines += o.Lines
	r.Edges = slices.Clone(r.Edges)
	for _, e := range o.Edges {
		i := slices.IndexFunc(r.Edges, func(x edgeReport) bool { return x.From == e.From && x.To == e.To })
		if i < 0 {
			r.Edges = append(r.Edges, e)
			continue
		}
		var latency [stream.LatencyBuckets]uint64 // summed below, as a map
		sum := r.Edges[i]
		addEdge(&sum.Edge, &latency, e, true)
		sum.Latency = maps.Clone(sum.Latency)
		for at, n := range e.Latency {
			sum.Latency[at] += n
		}
		r.Edges[i] = sum
	}
	return r
}
