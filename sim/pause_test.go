package sim

import (
	"testing"
	"time"
)

// A6: the sink is paused 3 s and takes nothing meanwhile, the taps stop within a window, nothing is
// lost; what is asked while nobody leads is done by who leads next.
func TestPause(t *testing.T) {
	long(t)
	t.Parallel()
	text, err := FindBuiltin("pause")
	if err != nil {
		t.Fatal(err)
	}
	s := parsed(t, "pause", text, Shape{})
	r := Run(Config{Scenario: s, Seed: 1})
	held(t, r)
	asked, done, resumed := make(map[string]time.Duration), make(map[string]time.Duration), make(map[string]time.Duration)
	var led, lastRead, sunk time.Duration
	for _, e := range r.History.All {
		switch e.Kind {
		case EventPauseAsked:
			asked[e.Text] = e.At
		case EventPaused:
			done[e.Text] = e.At
		case EventResumed:
			resumed[e.Text] = e.At
		case EventElected:
			led = e.At
		case EventRead:
			if resumed["sink"] == 0 {
				lastRead = e.At
			}
		case EventSunk:
			if done["sink"] > 0 && resumed["sink"] == 0 {
				sunk = e.At
			}
		}
	}
	if sunk > done["sink"]+deliveryMax || resumed["sink"]-lastRead < time.Second {
		t.Errorf("sink paused at %v until %v: it wrote until %v, the tap read until %v", done["sink"], resumed["sink"], sunk, lastRead)
	}
	if done["work"] < led || done["work"] > led+time.Second || asked["work"] > led {
		t.Errorf("work: asked %v, led %v, paused %v", asked["work"], led, done["work"])
	}
	for role, at := range asked {
		if done[role] < at || resumed[role] <= done[role] {
			t.Errorf("%q: asked %v, paused %v, to go on %v", role, at, done[role], resumed[role])
		}
	}
	if len(asked) != 3 {
		t.Errorf("paused: %v, want sink, work and all", asked)
	}
}
