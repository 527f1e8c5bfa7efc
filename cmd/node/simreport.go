package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"weir/sim"
)

// simReport gathers the runs of seeds and says what they showed.
type simReport struct {
	cfg simConfig
	w   io.Writer
	con *console

	sum     simSum
	reached []map[string]uint64
}

// simSum is what --json prints, summed over the seeds. The field names are stable.
type simSum struct {
	Verdict        string   `json:"verdict"` // held or violated
	Scenario       string   `json:"scenario"`
	Seed           uint64   `json:"seed"` // the first that failed, else the first
	Seeds          int      `json:"seeds"`
	FailedSeeds    []uint64 `json:"failed_seeds"`
	Fails          string   `json:"fails,omitempty"` // of Seed: k of K
	Violations     int      `json:"violations"`
	Violated       []string `json:"violated"` // the first of each failed seed
	Lost           uint64   `json:"lost"`
	Duplicates     uint64   `json:"duplicates"`
	DeadLetters    uint64   `json:"dead_letters"`
	RecordsRead    uint64   `json:"records_read"`
	RecordsAcked   uint64   `json:"records_acked"`
	LeaderChanges  int      `json:"leader_changes"`
	Nodes          int      `json:"nodes"`
	VirtualSeconds float64  `json:"virtual_seconds"`
	RealSeconds    float64  `json:"real_seconds"`
	NeverReached   []string `json:"never_reached"` // rare branches of the product
}

// add runs a seed and counts it; one that fails is run again to see how often it does.
func (r *simReport) add(s sim.Scenario, run func() *sim.Result) error {
	res := run()
	r.count(s, res)
	if r.cfg.Seeds.first == r.cfg.Seeds.last {
		if err := r.draw(s, res); err != nil {
			return err
		}
	} else {
		r.con.show(fmt.Sprintf("seed %d of %s: %d run, %d failed", res.Seed, r.cfg.Seeds.String(), r.sum.Seeds, len(r.sum.FailedSeeds)))
	}
	if res.Held() {
		return nil
	}
	fails := ""
	if len(r.sum.FailedSeeds) <= simRetriedMax {
		failed := 1
		for range simRetries {
			if !run().Held() {
				failed++
			}
		}
		fails = fmt.Sprintf("%d of %d", failed, simRetries+1)
	}
	if len(r.sum.FailedSeeds) == 1 {
		r.sum.Fails = fails
	}
	return r.blame(res, fails)
}

func (r *simReport) count(s sim.Scenario, res *sim.Result) {
	if r.sum.Seeds == 0 {
		r.sum.Scenario, r.sum.Seed, r.sum.Nodes = s.Name, res.Seed, res.Nodes
	}
	r.sum.Seeds++
	r.sum.Lost += res.Lost
	r.sum.Duplicates += res.Duplicates
	r.sum.DeadLetters += res.Letters
	r.sum.RecordsRead += res.Records
	r.sum.RecordsAcked += res.Acked
	r.sum.LeaderChanges += res.LeaderChanges
	r.sum.VirtualSeconds += res.Virtual.Seconds()
	r.sum.RealSeconds += res.Real.Seconds()
	if res.History != nil {
		r.reached = append(r.reached, res.History.Reached())
	}
	if res.Held() {
		return
	}
	if len(r.sum.FailedSeeds) == 0 {
		r.sum.Seed = res.Seed
	}
	r.sum.FailedSeeds = append(r.sum.FailedSeeds, res.Seed)
	r.sum.Violations += len(res.Violations)
	first := ""
	if res.Err != nil {
		r.sum.Violations++
		first, _, _ = strings.Cut(res.Err.Error(), "\n")
	} else {
		first = res.Violations[0].String()
	}
	r.sum.Violated = append(r.sum.Violated, first)
}

// draw shows one run on its time axis.
func (r *simReport) draw(s sim.Scenario, res *sim.Result) error {
	fmt.Fprintf(r.w, "%s: %s\n%d nodes, seed %d\n\n", s.Name, s.About, res.Nodes, res.Seed)
	if err := res.Timeline.Write(r.w, columnsOf(r.w)); err != nil {
		return err
	}
	_, err := fmt.Fprintln(r.w)
	return err
}

// blame says what a failed seed violated, and how to see it again.
func (r *simReport) blame(res *sim.Result, fails string) error {
	r.con.show("")
	b := new(strings.Builder)
	fmt.Fprintf(b, "VIOLATED by seed %d", res.Seed)
	if fails != "" {
		fmt.Fprintf(b, ", which fails %s", fails)
	}
	b.WriteByte('\n')
	if res.Err != nil {
		fmt.Fprintf(b, "  the run broke: %v\n", res.Err)
	}
	rules := make(map[string]bool)
	for i := range res.Violations {
		v := &res.Violations[i]
		if rules[v.Rule] {
			continue // the first of each rule tells most
		}
		rules[v.Rule] = true
		fmt.Fprintf(b, "  %s", res.History.Story(v))
	}
	fmt.Fprintf(b, "  again: %s\n\n", r.command(res.Seed))
	_, err := io.WriteString(r.w, b.String())
	return err
}

// command is what runs a seed again.
func (r *simReport) command(seed uint64) string {
	words := []string{"weir sim"}
	if r.cfg.File != "" {
		words = append(words, r.cfg.File)
	}
	switch {
	case r.cfg.Chaos != "":
		words = append(words, "--chaos", r.cfg.Chaos)
	case r.cfg.Scenario != "":
		words = append(words, "--scenario", r.cfg.Scenario)
	}
	words = append(words, fmt.Sprintf("--seed %d", seed))
	if r.cfg.Nodes > 0 {
		words = append(words, fmt.Sprintf("--nodes %d", r.cfg.Nodes))
	}
	if r.cfg.Realtime {
		words = append(words, "--realtime")
	}
	return strings.Join(words, " ")
}

// finish says the verdict.
func (r *simReport) finish() error {
	r.con.show("")
	s := &r.sum
	judged := s.Seeds
	s.Verdict = "held"
	if n := len(s.FailedSeeds); n > 0 {
		s.Verdict, judged = "violated", n
	}
	s.NeverReached = append([]string{}, sim.Unreached(r.reached...)...)
	s.FailedSeeds = append([]uint64{}, s.FailedSeeds...)
	s.Violated = append([]string{}, s.Violated...)
	b := new(strings.Builder)
	fmt.Fprintf(b, "%s records read, %s acked, %s lost, %s written twice, %s dead letters; %d changes of leader\n",
		count(s.RecordsRead), count(s.RecordsAcked), count(s.Lost), count(s.Duplicates), count(s.DeadLetters), s.LeaderChanges)
	if len(s.NeverReached) > 0 && s.Seeds > 1 {
		fmt.Fprintf(b, "rare branches never taken: %s\n", strings.Join(s.NeverReached, ", "))
	}
	speed := s.VirtualSeconds / max(s.RealSeconds, time.Millisecond.Seconds())
	fmt.Fprintf(b, "%s: %d of %d seeds, %.1f s in %.1f s (%.0fx)\n", s.Verdict, judged, s.Seeds, s.VirtualSeconds, s.RealSeconds, speed)
	if r.cfg.JSON {
		enc := json.NewEncoder(b)
		enc.SetEscapeHTML(false) // links are written with an arrow
		if err := enc.Encode(s); err != nil {
			return fmt.Errorf("encode the figures: %w", err)
		}
	}
	if _, err := io.WriteString(r.w, b.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if s.Verdict == "violated" {
		return &exitError{Code: exitFailed} // it is said
	}
	return nil
}

// twice compares two runs of one seed.
func (r *simReport) twice(a, b *sim.Result) error {
	promised, free := sim.Difference(a, b)
	text := "the same faults, the same verdict\n"
	if promised != "" {
		text = "DIFFERENT: " + promised + "\n"
	}
	if free != "" {
		text += "what Go's scheduler draws differs first in: " + free + "\n"
	}
	if _, err := io.WriteString(r.w, text); err != nil {
		return fmt.Errorf("write the difference: %w", err)
	}
	if promised != "" || !a.Held() || !b.Held() {
		return &exitError{Code: exitFailed}
	}
	return nil
}

// columnsOf is the width of w if it is a terminal, 100 else.
func columnsOf(w io.Writer) int {
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		return newConsole(f).columns()
	}
	return 100
}
