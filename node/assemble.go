package node

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"weir/node/sink"
	"weir/node/spec"
	"weir/node/tap"
	"weir/node/worker"
	"weir/stream"
	"weir/topology"
)

// AssembleOptions is what a role of a pipeline file needs to know of where it runs.
type AssembleOptions struct {
	Node   topology.NodeID // names files that are this node's own
	Stdin  io.Reader       // of a stdin tap; nil = os.Stdin
	Stdout io.Writer       // of a stdout sink; nil = os.Stdout
	Log    *slog.Logger    // nil = discard
}

// generatedSize is the size of a generated line for which the file gives none, in bytes: that
// of the records DESIGN 7 measures with.
const generatedSize = 128

// Assemble makes the role that f calls role ("role", or "pipeline/role" of f's pipeline) ready
// to serve. A program that cannot be run is a *stream.ConfigError. The file of a sink is open and
// locked when Assemble returns, and as it was: the node that runs the role begins and closes it.
func Assemble(f *spec.File, role string, opt AssembleOptions) (Role, error) {
	name := strings.TrimPrefix(role, f.Pipeline.Name+"/")
	r, ok := f.Roles[name]
	if !ok {
		have := strings.Join(slices.Sorted(maps.Keys(f.Roles)), ", ")
		return Role{}, &usageError{fmt.Sprintf("pipeline %s has no role %s: it has %s", f.Pipeline.Name, role, have)}
	}
	if err := f.Unset(name); err != nil {
		return Role{}, err
	}
	made := Role{Name: role, Capacity: r.Capacity, Attempts: r.Attempts, Program: f.Program(name)}
	var err error
	switch {
	case r.Tap != nil:
		made.Tap, err = assembleTap(f, name, r, opt)
	case r.Sink != nil:
		made.Sink, err = assembleSink(f, name, r, opt)
	case r.HTTP != nil:
		made.Handler, err = worker.HTTP(worker.HTTPConfig{
			URL: string(r.HTTP.URL), Header: r.HTTP.Headers(), Timeout: r.HTTP.Timeout,
			Capacity: r.Capacity, RecordMax: f.Pipeline.RecordMax,
		})
	default:
		procs := cmp.Or(r.Procs, runtime.NumCPU())
		window := procs
		if r.Mode != topology.KindEach {
			window *= worker.WindowRecords
		}
		made.Capacity = cmp.Or(r.Capacity, window)
		made.Handler, err = worker.New(worker.Config{
			Exec: r.Exec, Sh: r.Sh, Dir: f.Dir, Line: r.Mode == topology.KindLine, Frame: r.Mode == topology.KindFrame,
			Deadline: r.Deadline, Attempts: r.Attempts,
			Procs: procs, OK: r.OK, RecordMax: f.Pipeline.RecordMax,
			Pipeline: f.Pipeline.Name, Role: name, Node: string(opt.Node),
			Log: opt.Log,
		})
	}
	if err != nil {
		return Role{}, fmt.Errorf("role %s: %w", role, err)
	}
	return made, nil
}

func assembleTap(f *spec.File, name string, r spec.Role, opt AssembleOptions) (stream.Tap, error) {
	cfg := tap.Config{Block: r.Records == "block", RecordMax: f.Pipeline.RecordMax, Shared: r.Shared, Log: opt.Log}
	switch t := r.Tap; {
	case t.Put:
		return nil, &usageError{"no node serves it: weir put brings its records"}
	case t.Follow:
		return tap.Follow(t.File, cfg)
	case t.File != "":
		return tap.File(t.File, cfg)
	case len(t.Glob) > 0:
		return tap.Glob(t.Glob, cfg)
	case t.HTTP != nil:
		return tap.HTTP(tap.HTTPListen{Listen: t.HTTP.Listen, Path: t.HTTP.Path}, cfg)
	case t.Redis != nil:
		return tap.Redis(tap.RedisStream{URL: string(t.Redis.URL), Stream: t.Redis.Stream, Field: t.Redis.Field}, cfg)
	case len(t.Exec) > 0 || t.Sh != "":
		run, err := worker.Prints(worker.Config{
			Exec: t.Exec, Sh: t.Sh, Dir: f.Dir, OK: spec.DefaultOK(t.Exec, t.Sh),
			Pipeline: f.Pipeline.Name, Role: name, Node: string(opt.Node), Log: opt.Log,
		})
		if err != nil {
			return nil, err
		}
		return tap.Program(filepath.Base(append(t.Exec, "sh")[0]), run, cfg)
	case t.Generate != nil:
		g := tap.Generated{
			Records: t.Generate.Records,
			Size:    cmp.Or(t.Generate.Size, generatedSize),
			Rate:    float64(t.Generate.Rate),
		}
		return tap.Generate(g, cfg)
	}
	if opt.Stdin == nil {
		opt.Stdin = os.Stdin
	}
	return tap.Stdin(opt.Stdin, cfg)
}

func assembleSink(f *spec.File, role string, r spec.Role, opt AssembleOptions) (stream.Sink, error) {
	switch s := r.Sink; {
	case s.File != "":
		return sink.OpenFile(sink.FileConfig{
			Path: strings.ReplaceAll(s.File, "{node}", string(opt.Node)), Append: s.Append, Log: opt.Log,
		})
	case s.Discard:
		return sink.Discard(), nil
	case s.Postgres != nil:
		return sink.Postgres(string(s.Postgres.URL), s.Postgres.Table)
	case s.HTTP != nil:
		return sink.HTTP(sink.HTTPConfig{URL: string(s.HTTP.URL), Header: s.HTTP.Headers(), Timeout: s.HTTP.Timeout})
	case s.SQLite != nil:
		return sink.SQLite(strings.ReplaceAll(s.SQLite.File, "{node}", string(opt.Node)), s.SQLite.Table), nil
	case s.Redis != nil:
		return sink.Redis(sink.RedisConfig{
			URL: string(s.Redis.URL), Stream: strings.ReplaceAll(s.Redis.Stream, "{node}", string(opt.Node)),
			MaxLen: s.Redis.MaxLen, Log: opt.Log,
		})
	case len(s.Exec) > 0, s.Sh != "":
		return worker.NewSink(worker.Config{
			Exec: s.Exec, Sh: s.Sh, Dir: f.Dir, Deadline: r.Deadline,
			Pipeline: f.Pipeline.Name, Role: role, Node: string(opt.Node), Log: opt.Log,
		})
	}
	if opt.Stdout == nil {
		opt.Stdout = os.Stdout
	}
	return sink.Writer(opt.Stdout, "stdout"), nil
}
