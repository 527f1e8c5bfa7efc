package sim

import (
	"context"
	"time"
)

// askEvery is how often a run looks for the answer to a call, and asks again where it was refused.
const askEvery = 100 * time.Millisecond

// wish is what a scenario wants of the pipeline, or of one of its roles: that it is paused, or that it
// goes on. The director asks for it as a user would, of any living node, until one says that it is
// done, another wish has come, or the run is over.
type wish struct {
	what   string // "pipeline" or "pipeline/role"
	role   string // "": the whole pipeline
	paused bool
	asks   uint64       // so far
	answer <-chan error // of the call in flight; nil: none
}

// pause has roles paused, or the whole pipeline. From the asking on the run is disturbed, until the
// roles are asked to go on: that this is done, and soon, is the cluster's part (I13).
func (d *director) pause(st step) (undo func() error) {
	roles := st.act.roles
	if len(roles) == 0 {
		roles = []string{""}
	}
	for _, role := range roles {
		d.c.history.Add(Event{Kind: EventPauseAsked, Text: role})
		d.want(role, true)
	}
	return func() error {
		for _, role := range roles {
			d.c.history.Add(Event{Kind: EventResumed, Text: role})
			d.want(role, false)
		}
		return nil
	}
}

// want asks for a role to be paused, or to go on.
func (d *director) want(role string, paused bool) {
	if w := d.wishes[role]; w != nil { // it is asked for the opposite until now
		w.paused = paused
		return
	}
	w := &wish{what: pipelineName, role: role, paused: paused}
	if role != "" {
		w.what += "/" + role
	}
	d.wishes[role] = w
	d.pursue(w, paused)
}

// pursue looks for an answer and asks again where there is none that will do. asked is what the
// call in flight is to do.
func (d *director) pursue(w *wish, asked bool) {
	if d.over {
		return
	}
	select {
	case err := <-w.answer:
		w.answer = nil
		if err == nil && asked == w.paused {
			delete(d.wishes, w.role)
			if w.paused {
				d.c.history.Add(Event{Kind: EventPaused, Text: w.role})
			}
			return
		}
	default:
	}
	if up := d.c.up(); w.answer == nil && len(up) > 0 {
		w.asks++
		asked = w.paused
		w.answer = d.c.ask(up[mix(mix(d.c.seed, hash(w.what)), w.asks)%uint64(len(up))], w.what, asked)
	}
	d.plan(d.net.now()+askEvery, func() error { d.pursue(w, asked); return nil })
}

// ask has a member's node pause something, or let it go on. One answer comes.
func (c *cluster) ask(m *member, what string, paused bool) <-chan error {
	answer := make(chan error, 1) // one answer, which nobody may wait for
	n := m.life.node
	m.lives.Go(func() { // ended by the bound that the node has for such a call; joined by close
		answer <- n.Pause(context.Background(), what, paused)
	})
	return answer
}
