package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"weir/node/api"
	"weir/node/dead"
)

// shelf is the dead letters of data dirs whose nodes do not run, as those of a run of `up` that has
// ended. It answers the calls of the same names; a replay needs nodes.
type shelf struct {
	nodes  []string // names of the folders
	stores []*dead.Store
}

// askDead makes a call, at the node at addr or, where dir is given, on what is in it.
func askDead[Out any](ctx context.Context, addr, dir, name string, in api.Pick, on func(*shelf, api.Pick) (Out, error)) (out Out, err error) {
	if dir == "" {
		return out, call(ctx, addr, name, in, &out)
	}
	s, err := openShelf(dir)
	if err != nil {
		return out, err
	}
	defer s.close()
	return on(s, in)
}

// openShelf opens the letters of the data dir, or of all that are in it.
func openShelf(dir string) (*shelf, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "dead.db"))
	more, _ := filepath.Glob(filepath.Join(dir, "*", "dead.db")) // the same pattern is good or bad
	paths = append(paths, more...)
	if err != nil || len(paths) == 0 {
		return nil, &exitError{exitUsage, fmt.Errorf("--data-dir %s: no node has kept dead letters there", dir)}
	}
	s := new(shelf)
	for _, path := range paths {
		store, err := dead.Open(path, false)
		if errors.Is(err, dead.ErrInUse) {
			s.close()
			return nil, &exitError{exitBusy, fmt.Errorf("--data-dir %s: its node runs: ask it, without --data-dir", filepath.Dir(path))}
		}
		if err != nil {
			s.close()
			return nil, &exitError{exitDisk, fmt.Errorf("%s: %w", path, err)}
		}
		s.nodes, s.stores = append(s.nodes, filepath.Base(filepath.Dir(path))), append(s.stores, store)
	}
	return s, nil
}

func (s *shelf) close() {
	for _, store := range s.stores {
		_ = store.Close() // what was written is on the disk
	}
}

func (s *shelf) list(p api.Pick) (api.Letters, error) {
	out := api.Letters{Letters: []dead.Letter{}}
	for i, store := range s.stores {
		ls, more, err := store.List(dead.Filter{Name: p.Name, Limit: p.Limit})
		if err != nil {
			return out, err
		}
		for _, l := range ls {
			l.Keeper = s.nodes[i]
			out.Letters = append(out.Letters, l)
		}
		out.More += more
	}
	slices.SortStableFunc(out.Letters, func(a, b dead.Letter) int { return cmp.Compare(b.TimeMS, a.TimeMS) })
	if over := len(out.Letters) - p.Limit; p.Limit > 0 && over > 0 {
		out.Letters, out.More = out.Letters[:p.Limit], out.More+over
	}
	return out, nil
}

// find returns the only letter whose id begins so, and the place of its store.
func (s *shelf) find(prefix string) (id string, at int, err error) {
	if err := dead.CheckPrefix(prefix); err != nil {
		return "", 0, &exitError{exitUsage, err}
	}
	var ids []string
	for i, store := range s.stores {
		err = errors.Join(err, store.Each(dead.Filter{Prefix: prefix}, func(l dead.Letter) { ids, at = append(ids, l.ID), i }))
	}
	switch ids = slices.Compact(slices.Sorted(slices.Values(ids))); {
	case err != nil:
		return "", 0, err
	case len(ids) == 0:
		return "", 0, &exitError{exitUsage, fmt.Errorf("there is no dead letter %s", prefix)}
	case len(ids) > 1:
		return "", 0, &exitError{exitUsage, fmt.Errorf("%s begins several dead letters: %s", prefix, strings.Join(ids[:min(len(ids), 4)], ", "))}
	}
	return ids[0], at, nil
}

func (s *shelf) show(p api.Pick) (out api.Letter, err error) {
	id, at, err := s.find(p.IDs[0])
	if err != nil {
		return out, err
	}
	l, c, err := s.stores[at].Get(id)
	l.Keeper = s.nodes[at]
	return api.Letter{Letter: l, Body: c.Body}, err
}

func (s *shelf) drop(p api.Pick) (out api.Dropped, err error) {
	ids := make([][]string, len(s.stores))
	for _, prefix := range p.IDs {
		id, at, err := s.find(prefix)
		if err != nil {
			return out, err
		}
		ids[at] = append(ids[at], id)
	}
	for i, store := range s.stores {
		if len(p.IDs) == 0 {
			err = store.Each(dead.Filter{Name: p.Name}, func(l dead.Letter) { ids[i] = append(ids[i], l.ID) })
		}
		n := 0
		if err == nil {
			n, err = store.Drop(ids[i]...)
		}
		if out.Letters += n; err != nil {
			return out, err
		}
	}
	return out, nil
}
