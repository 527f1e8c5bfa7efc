package sim

// hinder makes nodes slow, stops them, or takes from them what they need.
func (d *director) hinder(st step, who []*member) (undo func() error) {
	lives := make([]*life, len(who))
	for i, m := range who {
		lives[i] = m.life
		if st.act.verb == verbFreeze {
			d.c.freeze(m.life)
			continue
		}
		switch st.act.verb {
		case verbStall:
			m.life.pace.hold()
		case verbSlow:
			m.life.pace.stretch(st.act.factor)
		case verbBusy:
			m.life.pace.refuse(1)
		case verbFull:
			m.disk.fill(1)
		}
		d.c.history.Add(Event{Kind: EventFaultBegin, Node: m.life.id, Text: st.text})
	}
	return func() error {
		for i, l := range lives {
			switch st.act.verb {
			case verbFreeze:
				if who[i].life == l { // it was not killed meanwhile
					d.c.thaw(l)
				}
				continue
			case verbStall:
				l.pace.release()
			case verbSlow:
				l.pace.stretch(1 / st.act.factor)
			case verbBusy:
				l.pace.refuse(-1)
			case verbFull:
				who[i].disk.fill(-1)
			}
			d.c.history.Add(Event{Kind: EventFaultEnd, Node: l.id, Text: st.text})
		}
		return nil
	}
}
