package sim

import "fmt"

// This file is pure.

// Difference says where two runs of one seed and scenario first differ, in two sentences: in what
// is promised to be the same, the schedule of faults and the verdict, and in what is not, because
// Go's scheduler draws by itself: who was elected when, and how records flowed. "" = nowhere.
func Difference(a, b *Result) (promised, free string) {
	if a.Held() != b.Held() {
		promised = fmt.Sprintf("the first run %s, the second %s", verdictWord(a), verdictWord(b))
	}
	fa, fb := a.Timeline.Faults, b.Timeline.Faults
	for i := range min(len(fa), len(fb)) {
		if fa[i].From != fb[i].From || fa[i].Step != fb[i].Step {
			promised = fmt.Sprintf("fault %d: %s at %v, then %s at %v", i+1, fa[i].Step, fa[i].From, fb[i].Step, fb[i].From)
			break
		}
		if free == "" && fa[i].Text != fb[i].Text {
			free = fmt.Sprintf("at %v: %s, then %s", fa[i].From, fa[i].Text, fb[i].Text)
		}
	}
	if promised == "" && len(fa) != len(fb) {
		promised = fmt.Sprintf("%d faults, then %d", len(fa), len(fb))
	}
	if free == "" {
		free = flowDifference(&a.Timeline, &b.Timeline)
	}
	return promised, free
}

func flowDifference(a, b *Timeline) string {
	for i := range min(len(a.Elections), len(b.Elections)) {
		if x, y := a.Elections[i], b.Elections[i]; x != y {
			return fmt.Sprintf("election %d: %s in term %d at %v, then %s in term %d at %v",
				i+1, x.Leader, x.Term, x.At, y.Leader, y.Term, y.At)
		}
	}
	if len(a.Elections) != len(b.Elections) {
		return fmt.Sprintf("%d elections, then %d", len(a.Elections), len(b.Elections))
	}
	for i := range min(len(a.Samples), len(b.Samples)) {
		if x, y := a.Samples[i], b.Samples[i]; x.Acked != y.Acked {
			return fmt.Sprintf("at %v: %d records acked, then %d", x.At, x.Acked, y.Acked)
		}
	}
	return ""
}

func verdictWord(r *Result) string {
	if r.Held() {
		return "held"
	}
	return "violated"
}
