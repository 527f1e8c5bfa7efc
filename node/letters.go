package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weir/node/api"
	"weir/node/dead"
	"weir/stream"
	"weir/topology"
)

const (
	// buryWait is how long another node may take to keep a dead letter: as long as the largest takes
	// over a slow line (remoteWait).
	buryWait = remoteWait
	// burySaid is how often it is said again that dead letters wait.
	burySaid = time.Minute
)

// letters is what a node does with dead letters: it keeps them where it has a data dir, else another
// node does.
type letters struct {
	n     *Node
	store *dead.Store // nil: no data dir

	mu        sync.Mutex
	waits     map[*stream.Letter]string // why each letter under way is not kept yet, once it waits
	said      time.Time                 // when that was logged last
	keeper    topology.NodeID           // that took the last one
	replaying map[string]bool           // ids
}

func newLetters(n *Node) *letters {
	return &letters{n: n, store: n.dir.letters, waits: make(map[*stream.Letter]string), replaying: make(map[string]bool)}
}

// burial is a letter on its way to the node that keeps it.
type burial struct {
	Letter dead.Letter `json:"letter"`
	Record []byte      `json:"record"`
}

// bury keeps a dead letter. It returns when the letter is on a disk, here or on another node; until
// then it tries, for as long as ctx lasts, and status says why.
func (ls *letters) bury(ctx context.Context, l stream.Letter) error {
	b := burial{
		Letter: dead.Letter{
			TimeMS: time.Now().UnixMilli(), Pipeline: l.Pipeline, Role: l.Role, Node: string(ls.n.self.ID), From: l.Record.From, Port: l.Record.Port,
			Attempts: l.Record.Attempt, Reason: l.Reason, Stderr: l.Stderr, Record: recordName(l.Record.ID),
		},
		Record: dead.Content{Key: l.Record.Key, Header: l.Record.Header, Body: l.Record.Body}.Encode(),
	}
	if b.Letter.Port == stream.PortDead { // a part of its input, which it gave up by itself
		b.Letter.Port = ""
	}
	defer ls.waiting(&l, nil)
	pause := retryMin
	for {
		id, err := ls.place(ctx, b)
		if err == nil {
			ls.n.cfg.Hooks.letter(l)
			ls.n.log.Debug("dead letter", "letter", id, "pipeline", l.Pipeline, "role", l.Role, "reason", l.Reason)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		ls.waiting(&l, err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		pause = min(2*pause, retryMax)
	}
}

// recordName is a record's ID as text. All of one generation of a source begin alike.
func recordName(id stream.ID) string {
	return fmt.Sprintf("%s%d-%016x-%016x", sourceName(id.Source, id.Gen), id.Seq, id.Path, id.Sum)
}

func sourceName(source, gen uint64) string { return fmt.Sprintf("%016x-%016x-", source, gen) }

// errNoKeeper says why no node took a letter.
var errNoKeeper = errors.New("no node has a data dir: start one of this cluster with --data-dir")

// place has the first node keep a letter that can: this one, or else the one that took the last, a
// voter, any other.
func (ls *letters) place(ctx context.Context, b burial) (id string, err error) {
	if ls.store != nil {
		return ls.keep(ctx, b)
	}
	s := ls.n.consensus.State()
	ls.mu.Lock()
	ids := slices.Concat([]topology.NodeID{ls.keeper}, s.Voters)
	ls.mu.Unlock()
	for _, node := range s.Roster {
		ids = append(ids, node.ID)
	}
	err = errNoKeeper
	asked := map[topology.NodeID]bool{ls.n.self.ID: true, "": true}
	for _, to := range ids {
		if _, there := s.Node(to); asked[to] || !there {
			continue
		}
		asked[to] = true
		asking, cancel := context.WithTimeout(ctx, buryWait)
		id, failed := askOne[string](asking, ls.n, to, "dead/keep", b)
		cancel()
		if failed == nil {
			ls.mu.Lock()
			ls.keeper = to
			ls.mu.Unlock()
			return id, nil
		}
		if refused, ok := errors.AsType[*api.Error](failed); !ok || refused.Text != errNoKeeper.Error() {
			err = failed // it might have
		}
	}
	return "", err
}

// keep puts a letter into the store of this node.
func (ls *letters) keep(_ context.Context, b burial) (id string, err error) {
	if ls.store == nil {
		return "", errNoKeeper
	}
	c, err := dead.Decode(b.Record)
	if err != nil {
		return "", err
	}
	return ls.store.Put(b.Letter, c)
}

// waiting notes why a letter waits, nil: no more. It is logged once in a while.
func (ls *letters) waiting(l *stream.Letter, why error) {
	ls.mu.Lock()
	if why == nil {
		delete(ls.waits, l)
		ls.mu.Unlock()
		return
	}
	ls.waits[l] = why.Error()
	now := time.Now()
	say := now.Sub(ls.said) >= burySaid
	if say {
		ls.said = now
	}
	ls.mu.Unlock()
	if say {
		ls.n.log.Error("dead letters wait", "role", l.Role, "err", why)
	}
}

// waitsOf says why dead letters of a role wait, "" where none does.
func (ls *letters) waitsOf(key roleKey) string {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l, why := range ls.waits {
		if l.Pipeline == key.pipeline && l.Role == key.role {
			return "dead letters wait: " + why
		}
	}
	return ""
}

// counts is how many letters this node keeps, by pipeline/role.
func (ls *letters) counts() map[string]int {
	if ls.store == nil {
		return nil
	}
	return ls.store.Counts()
}
