package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// director does what a scenario says when it says so. All of a run that is not a node happens in
// its one goroutine, one moment after the other.
type director struct {
	s      *Scenario
	c      *cluster
	net    *network
	agenda []moment      // by time, those of one time in the order they came
	healed time.Duration // when the last fault ended
	acked  time.Duration // when not all was acked, last; 0: not looked at yet
	over   bool
	wishes map[string]*wish // by role: what the cluster has not agreed to yet

	timeline *Timeline
}

// moment is something to do at a time.
type moment struct {
	at time.Duration
	do func() error
}

// plan puts something on the agenda.
func (d *director) plan(at time.Duration, do func() error) {
	i := len(d.agenda)
	for i > 0 && d.agenda[i-1].at > at {
		i--
	}
	d.agenda = slices.Insert(d.agenda, i, moment{at, do})
}

// run does what is on the agenda until it is empty, do fails or ctx is done; between, what
// records do to their nodes.
func (d *director) run(ctx context.Context) error {
	for len(d.agenda) > 0 {
		m := d.agenda[0]
		if wait := m.at - d.net.now(); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case s := <-d.c.load.strikes:
				d.struck(s)
			case <-ctx.Done():
			}
			timer.Stop()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			continue
		}
		d.agenda = d.agenda[1:]
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// struck ends the node that a record strikes; another start follows, as a supervisor would see to.
func (d *director) struck(s strike) {
	for _, m := range d.c.up() {
		if m.life.id == s.node {
			d.c.history.Add(Event{Kind: EventStruck, Node: s.node, Record: s.record})
			d.c.kill(m)
			d.plan(d.net.now()+restartPause, func() error { return d.bring(m) })
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// prepare plans the start of all nodes and all steps.
func (d *director) prepare() {
	founder := d.c.founder
	at := time.Duration(0)
	for i, m := range append([]*member{founder}, d.c.members...) {
		if i > 0 && m == founder {
			continue
		}
		d.plan(at, func() error { return d.c.start(m) })
		at += time.Duration(unit(mix(d.c.seed, hash(m.name))) * float64(startApart))
	}
	for i, st := range d.s.steps {
		d.plan(st.at, func() error { return d.step(i, st) })
	}
}

// step does one step and plans its end.
func (d *director) step(i int, st step) error {
	sides := d.who(i, st)
	var first []*member
	if len(sides) > 0 {
		first = sides[0]
	}
	if len(first) == 0 && st.act.groups != nil {
		d.note(st, ": nobody to do it to", true)
		return nil
	}
	end := d.s.Length
	if st.lasts > 0 {
		end = min(end, st.at+st.lasts)
	}
	var undo func() error
	var err error
	switch st.act.verb {
	case verbKill, verbDrain, verbRestart, verbCrash, verbMove:
		undo, end, err = d.takeAway(st, first, end)
	case verbAdd:
		err = d.add(st)
	case verbReplace:
		for _, m := range first {
			d.c.load.replace(m)
		}
	case verbFreeze, verbStall, verbSlow, verbBusy, verbFull:
		undo = d.hinder(st, first)
	case verbPause:
		undo = d.pause(st)
	default:
		undo = d.impose(st, sides)
	}
	row := d.note(st, whom(st, sides), undo == nil)
	if undo != nil {
		d.plan(end, func() error {
			d.healed = d.net.now()
			d.timeline.Faults[row].To = d.healed
			return undo()
		})
	}
	return err
}

// note puts a fault on the timeline: one that is over at once, or one whose end is to come.
func (d *director) note(st step, met string, over bool) (row int) {
	what, _, _ := strings.Cut(st.text, " for ") // its length is drawn
	span := Span{Step: st.text, Text: what + met, From: d.net.now(), To: -1}
	if over {
		span.To = span.From
	}
	d.timeline.Faults = append(d.timeline.Faults, span)
	return len(d.timeline.Faults) - 1
}

// takeAway ends nodes; undo starts others in their place.
func (d *director) takeAway(st step, who []*member, end time.Duration) (undo func() error, back time.Duration, err error) {
	for _, m := range who {
		switch st.act.verb {
		case verbDrain:
			d.c.drain(m)
		case verbCrash:
			d.c.kill(m)
			m.disk.cut()
		default:
			d.c.kill(m)
		}
	}
	switch {
	case st.act.verb == verbRestart, st.act.verb == verbMove:
		end = min(d.s.Length, st.at+restartPause)
	case st.lasts == 0:
		d.healed = d.net.now() // nobody comes back: what is left must do from now on
		return nil, 0, nil
	}
	return func() error {
		for _, m := range who {
			if st.act.verb == verbMove {
				d.c.move(m)
			}
			at := end
			if len(who) > 1 { // in any order
				at += time.Duration(unit(mix(mix(d.c.seed, uint64(end)), hash(m.name))) * float64(bootsApart))
			}
			d.plan(at, func() error { return d.bring(m) })
		}
		return nil
	}, end, nil
}

// bring starts the node of a member, unless another step brought it back.
func (d *director) bring(m *member) error {
	d.healed = d.net.now()
	if m.life != nil {
		return nil
	}
	return d.c.start(m)
}

func (d *director) add(st step) error {
	role, n := st.act.role, 0
	for _, m := range d.c.members {
		if strings.HasPrefix(m.name, role+"-") {
			n++
		}
	}
	if role == bareName {
		role = ""
	}
	for i := range st.act.count {
		m := d.c.place(nodeName(st.act.role, n+i+1), role)
		at := d.net.now() + time.Duration(i)*startApart/time.Duration(st.act.count)
		d.plan(at, func() error { return d.c.start(m) })
	}
	return nil
}

// impose puts a fault of the network in force.
func (d *director) impose(st step, sides [][]*member) (undo func() error) {
	a := st.act
	sc := scope{both: a.both}
	if len(sides) > 0 {
		sc.from = namesOf(sides[0])
	}
	if len(sides) > 1 {
		sc.to = namesOf(sides[1])
	}
	var f fault
	switch a.verb {
	case verbPartition:
		groups := make([][]string, len(sides))
		for i, side := range sides {
			groups[i] = namesOf(side)
		}
		f, sc = newPartitionFault(groups), scope{}
	case verbCut:
		f = cutFault{}
	case verbLoss:
		f = lossFault{a.share}
		if a.burst > 0 {
			f = newBurstFault(a.share, a.burst)
		}
	case verbDuplicate:
		f = duplicateFault{a.share}
	case verbReorder:
		f = reorderFault{a.share, a.base}
	case verbDelay:
		f = delayFault{a.base, a.extra}
	case verbBandwidth:
		f = newBandwidthFault(float64(a.bytes), a.queue)
	case verbMTU:
		f = mtuFault{a.bytes}
	}
	lift := d.net.impose(f, sc)
	d.c.history.Add(Event{Kind: EventFaultBegin, Text: st.text})
	return func() error {
		lift()
		d.c.history.Add(Event{Kind: EventFaultEnd, Text: st.text})
		return nil
	}
}

// who finds the members that a step is about. Whoever is away is not among those that chance or
// a class picks.
func (d *director) who(i int, st step) (sides [][]*member) {
	var rest []int // sides that are what no other side names
	named := make(map[*member]bool)
	for k, g := range st.act.groups {
		var side []*member
		for j, t := range g {
			if t.word == "rest" {
				rest = append(rest, k)
				continue
			}
			for _, m := range d.find(st, t, mix(mix(d.c.seed, uint64(i)), uint64(j))) {
				if !named[m] {
					named[m] = true
					side = append(side, m)
				}
			}
		}
		sides = append(sides, side)
	}
	for _, k := range rest {
		for _, m := range d.c.members {
			if !named[m] {
				sides[k] = append(sides[k], m)
			}
		}
	}
	return sides
}

// find resolves one target. chance picks among several.
func (d *director) find(st step, t target, chance uint64) (found []*member) {
	losing := slices.Contains(losingVerbs, st.act.verb)
	alive := losing || slices.Contains(hinderingVerbs, st.act.verb)
	leads, _ := d.c.leader()
	voting, _ := d.c.voting()
	for _, m := range d.c.members {
		is := m.name == t.word || m.role == t.word
		switch t.word {
		case "leader":
			is = m == leads
		case "voter":
			is = slices.Contains(voting, m)
		case "follower":
			is = m != leads && slices.Contains(voting, m)
		default:
			is = is || slices.Contains(d.s.meant(target{word: t.word}), m.name)
		}
		if !is || alive && m.life == nil || t.random && losing && !d.c.mayLose(m) {
			continue
		}
		found = append(found, m)
	}
	if t.random && len(found) > 1 {
		k := int(unit(chance) * float64(len(found)))
		found = found[k : k+1]
	}
	return found
}

func namesOf(ms []*member) []string {
	names := make([]string, 0, len(ms)) // not nil, which would be all in a scope
	for _, m := range ms {
		names = append(names, m.name)
	}
	return names
}

// whom says who a step met, where its text does not.
func whom(st step, sides [][]*member) string {
	var met []string
	for i, g := range st.act.groups {
		for _, t := range g {
			if t.random || slices.Contains([]string{"leader", "follower", "voter"}, t.word) {
				met = append(met, strings.Join(namesOf(sides[i]), " "))
				break
			}
		}
	}
	if len(met) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.Join(met, " | "))
}
