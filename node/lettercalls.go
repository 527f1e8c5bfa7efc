package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/node/api"
	"weir/node/dead"
	"weir/stream"
	"weir/topology"
)

// What persons do with dead letters: any node is asked, and asks those that keep them.

const (
	// lettersWait is how long nodes may take to look up or drop letters.
	lettersWait = 3 * time.Second
	// lettersShown is the most letters of one list; each has 20 KiB at most.
	lettersShown = 1000
	// lettersNamed is the most ids of one question.
	lettersNamed = 1000
	// candidatesShown is how many letters are named where a prefix fits several.
	candidatesShown = 4
)

// deadQuery is what a node is asked that keeps letters: whole ids, or else a filter.
type deadQuery struct {
	Filter dead.Filter `json:"filter"`
	IDs    []string    `json:"ids,omitempty"`
}

// deadList is its answer to dead/list, deadGot to dead/get.
type (
	deadList struct {
		Letters []dead.Letter `json:"letters"`
		More    int           `json:"more"`
	}
	deadGot struct {
		Letter dead.Letter `json:"letter"`
		Record []byte      `json:"record"`
	}
)

// list and those below answer peers.
func (ls *letters) list(_ context.Context, f dead.Filter) (l deadList, err error) {
	if ls.store == nil {
		return l, nil
	}
	f.Limit = min(cmp.Or(f.Limit, lettersShown), lettersShown)
	l.Letters, l.More, err = ls.store.List(f)
	for i := range l.Letters {
		l.Letters[i].Keeper = string(ls.n.self.ID)
	}
	return l, err
}

func (ls *letters) get(_ context.Context, id string) (deadGot, error) {
	if ls.store == nil {
		return deadGot{}, dead.ErrNone
	}
	l, c, err := ls.store.Get(id)
	l.Keeper = string(ls.n.self.ID)
	return deadGot{l, c.Encode()}, err
}

func (ls *letters) drop(_ context.Context, q deadQuery) (d api.Dropped, err error) {
	ids, err := ls.take(q)
	if err != nil {
		return d, err
	}
	defer ls.release(ids.taken)
	d.Busy = ids.busy
	if len(ids.taken) > 0 {
		d.Letters, err = ls.store.Drop(ids.taken...)
	}
	return d, err
}

// taking is letters that nobody else replays or drops, the oldest first.
type taking struct {
	taken []string
	roles map[string]roleKey // of those that are there
	busy  int                // others, that somebody does
}

// take takes the letters meant; release them.
func (ls *letters) take(q deadQuery) (t taking, err error) {
	t.roles = make(map[string]roleKey)
	if ls.store == nil {
		return t, nil
	}
	var ids []string
	note := func(l dead.Letter) {
		ids = append(ids, l.ID)
		t.roles[l.ID] = roleKey{l.Pipeline, l.Role}
	}
	if q.IDs == nil {
		err = ls.store.Each(q.Filter, note)
	}
	for _, id := range q.IDs {
		err = errors.Join(err, ls.store.Each(dead.Filter{Prefix: id}, note))
	}
	if err != nil {
		return t, err
	}
	slices.Reverse(ids)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, id := range ids {
		if ls.replaying[id] {
			t.busy++
			continue
		}
		ls.replaying[id] = true
		t.taken = append(t.taken, id)
	}
	return t, nil
}

func (ls *letters) release(ids []string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, id := range ids {
		delete(ls.replaying, id)
	}
}

// deadCalls are the calls of the API.
func (n *Node) deadCalls() api.Calls {
	return api.Calls{
		"dead/list": api.Typed(n.DeadList),
		"dead/show": api.Typed(n.DeadShow),
		"dead/drop": api.Typed(n.DeadDrop),
	}
}

// DeadList lists dead letters of the whole cluster, the newest first.
func (n *Node) DeadList(ctx context.Context, p api.Pick) (api.Letters, error) {
	out := api.Letters{Letters: []dead.Letter{}}
	limit := min(cmp.Or(p.Limit, lettersShown), lettersShown)
	lists, silent := askAll[deadList](ctx, n, "dead/list", dead.Filter{Name: p.Name, Limit: limit}, lettersWait)
	out.Silent = idTexts(silent)
	seen := make(map[string]bool)
	for _, id := range slices.Sorted(maps.Keys(lists)) {
		out.More += lists[id].More
		for _, l := range lists[id].Letters {
			if !seen[l.ID] { // two may keep one, where the first had no time to say so
				seen[l.ID] = true
				out.Letters = append(out.Letters, l)
			}
		}
	}
	slices.SortStableFunc(out.Letters, func(a, b dead.Letter) int { return cmp.Compare(b.TimeMS, a.TimeMS) })
	if over := len(out.Letters) - limit; over > 0 {
		out.Letters = out.Letters[:limit]
		out.More += over
	}
	if len(out.Letters) == 0 && p.Name != "" { // of what is not there any more letters may be left
		if err := knows(n.consensus.State(), p.Name); err != nil {
			return out, err
		}
	}
	return out, ctx.Err()
}

// DeadShow returns one letter with its body.
func (n *Node) DeadShow(ctx context.Context, p api.Pick) (api.Letter, error) {
	keepers, err := n.find(ctx, p.IDs)
	if err != nil {
		return api.Letter{}, err
	}
	for keeper, ids := range keepers {
		ctx, cancel := context.WithTimeout(ctx, buryWait)
		defer cancel()
		got, err := askOne[deadGot](ctx, n, keeper, "dead/get", ids[0])
		if err != nil {
			return api.Letter{}, err
		}
		c, err := dead.Decode(got.Record)
		return api.Letter{Letter: got.Letter, Body: c.Body}, err
	}
	return api.Letter{}, dead.ErrNone // find has refused
}

// DeadDrop removes letters for good.
func (n *Node) DeadDrop(ctx context.Context, p api.Pick) (out api.Dropped, err error) {
	keepers, silent, err := n.pick(ctx, p)
	if err != nil {
		return out, err
	}
	out.Silent = silent
	for _, keeper := range slices.Sorted(maps.Keys(keepers)) {
		ctx, cancel := context.WithTimeout(ctx, lettersWait)
		d, err := askOne[api.Dropped](ctx, n, keeper, "dead/drop", deadQuery{dead.Filter{Name: p.Name}, keepers[keeper]})
		cancel()
		if err != nil {
			n.log.Info("dead letters not dropped", "peer", keeper, "err", err)
			out.Silent = append(out.Silent, string(keeper))
		}
		out.Letters += d.Letters
		out.Busy += d.Busy
	}
	return out, ctx.Err()
}

// pick finds who keeps the letters that are meant; ids are nil for all of p.Name.
func (n *Node) pick(ctx context.Context, p api.Pick) (keepers map[topology.NodeID][]string, silent []string, err error) {
	if len(p.IDs) > 0 {
		keepers, err = n.find(ctx, p.IDs)
		return keepers, nil, err
	}
	lists, missing := askAll[deadList](ctx, n, "dead/list", dead.Filter{Name: p.Name, Limit: 1}, lettersWait)
	keepers = make(map[topology.NodeID][]string)
	for id, l := range lists {
		if len(l.Letters) > 0 {
			keepers[id] = nil
		}
	}
	if len(keepers) == 0 && p.Name != "" {
		err = knows(n.consensus.State(), p.Name)
	}
	return keepers, idTexts(missing), err
}

// find returns the whole ids of letters by the node that keeps them.
func (n *Node) find(ctx context.Context, prefixes []string) (map[topology.NodeID][]string, error) {
	refuse := func(status, exit int, format string, args ...any) error {
		return &api.Error{Status: status, Exit: exit, Text: fmt.Sprintf(format, args...)}
	}
	if len(prefixes) == 0 || len(prefixes) > lettersNamed {
		return nil, refuse(http.StatusBadRequest, 2, "name 1 to %d dead letters, not %d", lettersNamed, len(prefixes))
	}
	keepers := make(map[topology.NodeID][]string)
	for _, prefix := range prefixes {
		if err := dead.CheckPrefix(prefix); err != nil {
			return nil, refuse(http.StatusBadRequest, 2, "%v", err)
		}
		lists, silent := askAll[deadList](ctx, n, "dead/list", dead.Filter{Prefix: prefix, Limit: candidatesShown}, lettersWait)
		at := make(map[string][]topology.NodeID)
		for _, node := range slices.Sorted(maps.Keys(lists)) {
			for _, l := range lists[node].Letters {
				at[l.ID] = append(at[l.ID], node)
			}
		}
		ids := slices.Sorted(maps.Keys(at))
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case len(ids) == 0 && len(silent) > 0:
			return nil, refuse(http.StatusServiceUnavailable, 69, "no node that answers keeps dead letter %s; %s did not answer", prefix, strings.Join(idTexts(silent), ", "))
		case len(ids) == 0:
			return nil, refuse(http.StatusNotFound, 2, "there is no dead letter %s: it was replayed or dropped, or never was", prefix)
		case len(ids) > 1:
			return nil, refuse(http.StatusConflict, 2, "%s begins several dead letters: %s", prefix, strings.Join(ids[:min(len(ids), candidatesShown)], ", "))
		}
		for _, node := range at[ids[0]] { // where two keep one, both are meant
			if !slices.Contains(keepers[node], ids[0]) {
				keepers[node] = append(keepers[node], ids[0])
			}
		}
	}
	return keepers, nil
}

func idTexts(ids []topology.NodeID) (texts []string) {
	for _, id := range ids {
		texts = append(texts, string(id))
	}
	return texts
}

// lettersOf counts the dead letters that came of one generation of a source.
func (n *Node) lettersOf(ctx context.Context, id stream.ID) (count int) {
	lists, _ := askAll[deadList](ctx, n, "dead/list", dead.Filter{Record: sourceName(id.Source, id.Gen), Limit: 1}, lettersWait)
	for _, l := range lists {
		count += len(l.Letters) + l.More
	}
	return count
}

// flows are what this node can be asked that takes long.
func (n *Node) flows() api.Flows {
	return api.Flows{"dead/replay": n.deadReplay, "put": n.put, "peek": n.peek, "logs": n.logs, "events": n.listEvents}
}

// deadReplay has all that keep letters which are meant replay them.
func (n *Node) deadReplay(ctx context.Context, q url.Values, _ api.Body, tell func(any) error) error {
	p := api.Pick{IDs: q["id"], Name: q.Get("name")}
	keepers, silent, err := n.pick(ctx, p)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	parts := make(map[topology.NodeID]api.Replayed)
	sum := func() api.Replayed { // with mu
		out := api.Replayed{Silent: slices.Clone(silent)}
		for _, keeper := range slices.Sorted(maps.Keys(parts)) {
			r := parts[keeper]
			out.Letters, out.Again, out.Of = out.Letters+r.Letters, out.Again+r.Again, out.Of+r.Of
			out.Notes = append(out.Notes, r.Notes...)
		}
		return out
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for keeper, ids := range keepers {
		group.Go(func() { // ended by ctx or the keeper's last answer
			err := n.ask(ctx, keeper, "dead/replay", deadQuery{dead.Filter{Name: p.Name}, ids}, func(b json.RawMessage) error {
				var r api.Replayed
				if err := json.Unmarshal(b, &r); err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				parts[keeper] = r
				if err := tell(sum()); err != nil {
					cancel(err) // nobody waits
				}
				return nil
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				r := parts[keeper]
				r.Notes = append(r.Notes, fmt.Sprintf("what %s keeps may be replayed in part, and stays where it was not acked: %v", keeper, err))
				parts[keeper] = r
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return errNodeEnds
	}
	return tell(sum())
}
