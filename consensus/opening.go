package consensus

import (
	"fmt"
	"slices"
)

// Pure: which files the sinks of a pipeline have emptied.

// openedMax is how many files the sinks of a pipeline may open, ever: one for each node that a
// cluster can hold. A node without a data dir is another after each restart.
const openedMax = rosterMax

// Opening is a file that a sink emptied because its pipeline was new to it: the sink that opens it
// again, after a restart, writes on. By is random, so that who asked twice knows its own again.
type Opening struct {
	File uint64 `json:"file"` // names role and path, not the machine
	By   uint64 `json:"by"`
}

// OpenedBy says by which opening a file was emptied, and whether it was.
func (p Pipeline) OpenedBy(file uint64) (by uint64, ok bool) {
	i := slices.IndexFunc(p.Opened, func(o Opening) bool { return o.File == file })
	if i < 0 {
		return 0, false
	}
	return p.Opened[i].By, true
}

// MayOpen is why the sinks of a pipeline may not open one more file; nil: they may.
func (p Pipeline) MayOpen() error {
	if len(p.Opened) < openedMax {
		return nil
	}
	return fmt.Errorf("the sinks of pipeline %s have opened %d files, the most that are remembered: "+
		"start their nodes with --data-dir, which keeps {node} the same, and apply the pipeline under another name", p.Name, openedMax)
}

// Open says that a sink of a pipeline is about to empty a file; the first opening of it stays.
func Open(pipeline string, o Opening) Command {
	return Command{Version: commandVersion, Kind: kindOpen, Name: pipeline, Opening: &o}
}

func (s *State) open(name string, o *Opening) error {
	i, known := slices.BinarySearchFunc(s.Pipelines, name, comparePipeline)
	if !known || o == nil {
		return fmt.Errorf("open a file of pipeline %s: the cluster has none of that name", name)
	}
	p := s.Pipelines[i]
	if _, ok := p.OpenedBy(o.File); ok {
		return nil
	}
	if err := p.MayOpen(); err != nil {
		return err
	}
	p.Opened = append(slices.Clone(p.Opened), *o)
	s.Pipelines = slices.Clone(s.Pipelines)
	s.Pipelines[i] = p
	return nil
}
