// Package sim runs many real nodes in one process, on a simulated network, in virtual time, under
// faults that a scenario or a seed says, and checks from what happened whether the promises held.
//
//	text ── ParseScenario ──> Scenario ── Run ──> Result: timeline, history, violations
//	                                      │
//	      director ── kills, cuts, stalls ┤ what the nodes and the load do ──> History ── Check
//	        cluster: real nodes ── port ── network ── faults
//
// A seed fixes the secret, the load, the faults and the fate of the k-th packet from a to b, not
// Go's scheduler: two runs of a seed have the same schedule and, as far as the product is right,
// the same verdict.
//
// It never opens a socket of the machine, and no file but the data dirs of a scenario with disks, in
// a folder of its own. It is no part of a node: the product tells it what happens by hooks that are
// nil in production.
//
// Goroutines: Run owns one that watches that virtual time goes on and one that enters it
// (bubble.go). Inside are the network's (network.go), one for each node (cluster.go), and the
// run's own, in which the director does one thing after the other. All have ended when Run
// returns, but for a run whose virtual time stands still, which cannot be ended.
package sim
