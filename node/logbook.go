package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"weir/consensus"
	"weir/node/api"
)

const (
	// logLinesMax is how many lines a node keeps for weir logs, at most logLineMax bytes each: 4 MiB,
	// some minutes of a role that says something now and then.
	logLinesMax = 2048
	logLineMax  = 2 << 10
)

// Logbook is a slog.Handler that keeps the last lines from Info up, for weir logs, and gives all that
// another handler wants to that one.
type Logbook struct {
	next  slog.Handler
	lines *journal[api.LogLine]
	attrs []slog.Attr // of With
}

// NewLogbook makes a logbook before next.
func NewLogbook(next slog.Handler) *Logbook {
	return &Logbook{next: next, lines: newJournal[api.LogLine](logLinesMax)}
}

// Enabled reports whether the logbook or the handler behind it takes a line of that level.
func (l *Logbook) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || l.next.Enabled(ctx, level)
}

// Handle keeps a line and hands it on.
func (l *Logbook) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		line := api.LogLine{Time: r.Time, Level: r.Level.String()}
		var text strings.Builder
		text.WriteString(r.Message)
		add := func(a slog.Attr) bool {
			switch a.Key {
			case "node":
			case "role":
				line.Role = a.Value.String()
			default:
				if text.Len() < logLineMax {
					fmt.Fprintf(&text, " %s=%v", a.Key, a.Value)
				}
			}
			return true
		}
		for _, a := range l.attrs {
			add(a)
		}
		r.Attrs(add)
		line.Text = text.String()
		line.Text = strings.ToValidUTF8(line.Text[:min(len(line.Text), logLineMax)], "?")
		l.lines.add(line)
	}
	if !l.next.Enabled(ctx, r.Level) {
		return nil
	}
	return l.next.Handle(ctx, r)
}

// WithAttrs is slog.Logger's With.
func (l *Logbook) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Logbook{next: l.next.WithAttrs(attrs), lines: l.lines, attrs: append(l.attrs[:len(l.attrs):len(l.attrs)], attrs...)}
}

// WithGroup gives the group to the handler behind; names in the logbook stay short.
func (l *Logbook) WithGroup(name string) slog.Handler {
	return &Logbook{next: l.next.WithGroup(name), lines: l.lines, attrs: l.attrs}
}

// logsOf is a question for what a node logged.
type logsOf struct {
	Role   string `json:"role"`
	Last   int    `json:"last"` // how many of those there are
	Follow bool   `json:"follow"`
}

// answerLogs tells the last lines of a role, and with Follow those that come, until the asker has
// gone.
func (n *Node) answerLogs(ctx context.Context, in json.RawMessage, tell func(any) error) error {
	var of logsOf
	if err := json.Unmarshal(in, &of); err != nil {
		return err
	}
	if n.cfg.Logbook == nil {
		return nil
	}
	pick := func(lines []api.LogLine) (picked []api.LogLine) {
		for _, line := range lines {
			if line.Role == of.Role {
				line.Node = string(n.self.ID)
				picked = append(picked, line)
			}
		}
		return picked
	}
	lines, _, next, more := n.cfg.Logbook.lines.after(0)
	told := pick(lines)
	told = told[max(0, len(told)-of.Last):]
	for {
		for len(told) > 0 {
			k := min(len(told), followedMax/4)
			if err := tell(told[:k]); err != nil {
				return err
			}
			told = told[k:]
		}
		if !of.Follow {
			return nil
		}
		if err := n.await(ctx, more, tell); err != nil {
			return err
		}
		var missed uint64
		lines, missed, next, more = n.cfg.Logbook.lines.after(next)
		told = pick(lines)
		if missed > 0 {
			told = append([]api.LogLine{{Node: string(n.self.ID), Missed: int(missed)}}, told...)
		}
	}
}

// logs tells what the nodes of the cluster logged of a role.
func (n *Node) logs(ctx context.Context, q url.Values, _ api.Body, tell func(any) error) error {
	of := logsOf{Role: q.Get("role"), Follow: q.Get("follow") == "true"}
	if _, err := fmt.Sscan(q.Get("last"), &of.Last); err != nil || of.Last < 0 {
		return &api.Error{Status: http.StatusBadRequest, Exit: 2, Text: "last must be a number of lines"}
	}
	role, err := roleNamed(n.consensus.State(), of.Role)
	if err != nil {
		return err
	}
	of.Role = role
	return follow(ctx, n, "logs", of, of.Follow, func(told []api.LogLine, missed uint64) error {
		if missed > 0 {
			told = append(told, api.LogLine{Node: string(n.self.ID), Missed: int(missed)})
		}
		return tell(told)
	})
}

// roleNamed finds a role by its name, alone or behind that of a pipeline.
func roleNamed(s *consensus.State, name string) (role string, err error) {
	if _, role, named := strings.Cut(name, "/"); named {
		return role, knows(s, name)
	}
	for _, p := range s.Pipelines {
		if _, has := p.Whole().Role(name); has {
			return name, nil
		}
	}
	return "", &api.Error{Status: http.StatusNotFound, Exit: 2, Text: "there is no role " + name}
}
