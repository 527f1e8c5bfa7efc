// Package spec reads the pipeline file: YAML to a topology.Pipeline and to what each role does.
//
// It never runs, opens or resolves anything the file names; Load reads the one file and variables
// of the environment. It starts no goroutine and keeps no state.
//
//	enrich.yaml ── Load ──> File ── Pipeline ──> the cluster's log
//	                           └── Roles ──> taps, workers and sinks of this node
//
// What the design names and this version does not have is refused with a *NotYetError, anything
// else with an *Error, both with file, line and column.
package spec

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"weir/topology"
)

// fileBytesMax is the most a pipeline file may hold, in bytes: 1000 roles of 256 bytes.
const fileBytesMax = 256 << 10

// File is a pipeline file that was read, with all defaults filled in.
type File struct {
	Pipeline topology.Pipeline
	Roles    map[string]Role
	Dir      string // absolute: where programs run, and what relative paths in the file were joined to

	places  map[string]Pos  // of the names of the roles; nil for a File made in Go
	written map[string]Role // before variables and Dir were put in; nil for a File made in Go
	unset   map[string][]error
}

// Role is what a role does: exactly one of Exec, Sh, HTTP, Tap and Sink is set.
type Role struct {
	Exec []string // a program and its arguments; with a slash in it the program's path is joined to Dir
	Sh   string   // the text of sh -c
	HTTP *Endpoint
	Tap  *Tap
	Sink *Sink

	Mode     topology.Kind // how a program is run: KindEach, KindLine, KindFrame; "" for all others
	Nodes    int           // nodes that serve the role where one command starts them all; at least 1
	Capacity int           // records worked on at once; 0 = what Procs can, for a program, else the node's default
	Procs    int           // processes at once; 0 = one a CPU
	OK       []int         // exit codes that ack, sorted, 0 among them; nil but for KindEach
	Deadline time.Duration // of a program: how long without a sign of progress; 0 = the worker's default
	Attempts int           // how often a record may be blamed; 0 = 3
	Needs    []string      // tags that a node must have to serve the role, sorted
	Records  string        // how a tap cuts: line or block; "" for all others
	Send     topology.Send // "" = copy
	Shared   bool          // of a tap: all nodes of the role see the same
	Takeover time.Duration // of a shared tap, as topology.Role has it
}

// Tap is where records come from: exactly one field is set.
type Tap struct {
	File     string    `json:",omitempty"` // path; .gz and .zst are unpacked
	Follow   bool      `json:",omitempty"` // of File: its lines as they are written, for ever
	Glob     []string  `json:",omitempty"` // patterns of paths; ** is any number of directories
	Stdin    bool      `json:",omitempty"`
	Generate *Generate `json:",omitempty"`
	HTTP     *HTTPTap  `json:",omitempty"`
	Redis    *RedisTap `json:",omitempty"` // all nodes of the role see the same
	Exec     []string  `json:",omitempty"` // a program and its arguments, as of a role
	Sh       string    `json:",omitempty"` // the text of sh -c
	Put      bool      `json:",omitempty"` // what `weir put` brings: no node serves the role
}

// HTTPTap says where requests come from.
type HTTPTap struct {
	Listen string // host:port
	Path   string `json:",omitempty"`
}

// RedisTap is a stream whose entries are read.
type RedisTap struct {
	URL    URL
	Stream string
	Field  string `json:",omitempty"` // that is the body; "" = the only one, or all
}

// Generate says what made-up records look like.
type Generate struct {
	Records int `json:",omitempty"` // how many; 0 = without end
	Size    int `json:",omitempty"` // bytes of a line, without its end; 0 = 128
	Rate    int `json:",omitempty"` // records a second; 0 = as fast as they are taken
}

// Sink is where records end: exactly one field is set, but for Append.
type Sink struct {
	File    string `json:",omitempty"` // path; {node} in it stands for the node's ID; .gz and .zst are packed
	Append  bool   `json:",omitempty"` // of File: what it held before a run stays
	Stdout  bool   `json:",omitempty"`
	Discard bool   `json:",omitempty"`

	Postgres *PostgresTable `json:",omitempty"`
	SQLite   *SQLiteTable   `json:",omitempty"`
	Redis    *RedisStream   `json:",omitempty"`
	HTTP     *Endpoint      `json:",omitempty"`
	Exec     []string       `json:",omitempty"` // a program that is run for each batch, as a role's
	Sh       string         `json:",omitempty"`
}

// Load reads the file at path as Parse does.
func Load(path string, set map[string]string) (*File, error) {
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, text, set)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{Pos{File: path}, "there is no such file"}
	case errors.Is(err, fs.ErrPermission):
		return nil, &Error{Pos{File: path}, "the file may not be read by this user"}
	case err != nil:
		return nil, fmt.Errorf("open pipeline file: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, &Error{Pos{File: path}, "this is a directory: name the pipeline file in it"}
	}
	text, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read pipeline file: %w", err)
	}
	return text, nil
}

// Resolve fills in what follows from Roles and Pipeline.Graph (the defaults of each role, how taps
// cut, Pipeline.Roles) and validates the pipeline; an error is topology.Problems. Parse has done
// so; it is for a File made in Go.
func (f *File) Resolve() error {
	f.Pipeline.Roles = nil
	for name, r := range f.Roles {
		r.Nodes = max(r.Nodes, 1)
		r.setMode()
		r.Shared = r.Shared || r.Tap != nil && r.Tap.Redis != nil
		if r.Tap != nil && r.Records == "" {
			r.Records = f.records(name)
		}
		f.Roles[name] = r
	}
	for _, name := range slices.Sorted(maps.Keys(f.Roles)) {
		r := f.Roles[name]
		f.Pipeline.Roles = append(f.Pipeline.Roles, topology.Role{
			Name: name, Kind: r.Kind(), Records: r.Records, Send: r.Send, Needs: r.Needs,
			Shared: r.Shared, Takeover: r.Takeover, Put: r.Tap != nil && r.Tap.Put,
		})
	}
	return f.Pipeline.Validate()
}

// Unset returns what is wrong with the roles, all if none is named, for want of values of variables:
// Errors, joined. Such a role cannot run here, but its pipeline can be drawn, and served by others.
func (f *File) Unset(roles ...string) error {
	if len(roles) == 0 {
		roles = f.Pipeline.Graph.Roles()
	}
	var errs []error
	for _, role := range roles {
		errs = append(errs, f.unset[role]...)
	}
	return errors.Join(errs...)
}

// setMode fills in how a program is run.
func (r *Role) setMode() {
	if r.program() && r.Mode == "" {
		r.Mode = topology.KindEach
	}
	if r.Mode == topology.KindEach && r.OK == nil {
		r.OK = DefaultOK(r.Exec, r.Sh)
	}
}

// Program is a hash, 16 hex digits, of what the log does not hold of a role: its program, tap or
// sink, and how a program is run; "" where the file has no such role. It is of the file as written, before ${NAME}
// and the file's directory are put in: machines that keep their files in other places run the same.
// Files that say the same in other words have the same.
func (f *File) Program(role string) string {
	r, ok := f.written[role]
	if !ok {
		if r, ok = f.Roles[role]; !ok {
			return ""
		}
	}
	r.setMode()
	text, _ := json.Marshal(struct { // these can be encoded
		Exec []string      `json:",omitempty"`
		Sh   string        `json:",omitempty"`
		HTTP *Endpoint     `json:",omitempty"`
		Tap  *Tap          `json:",omitempty"`
		Sink *Sink         `json:",omitempty"`
		Mode topology.Kind `json:",omitempty"`
		OK   []int         `json:",omitempty"`
	}{r.Exec, r.Sh, r.HTTP, r.Tap, r.Sink, r.Mode, r.OK})
	h := fnv.New64a()
	_, _ = h.Write(text) // it takes all
	return hex.EncodeToString(h.Sum(nil))
}

// records is how the tap cuts unless the file says: blocks where every consumer is a program
// that is run for each record, lines otherwise.
func (f *File) records(tap string) string {
	if f.Roles[tap].Tap.Follow {
		return "line"
	}
	for _, e := range f.Pipeline.Graph.Out(tap) {
		if r := f.Roles[e.To]; !r.program() || r.Mode == topology.KindLine || r.Mode == topology.KindFrame {
			return "line"
		}
	}
	return "block"
}

// Kind is the role's kind, as the log knows it.
func (r Role) Kind() topology.Kind {
	switch {
	case r.Tap != nil:
		return topology.KindTap
	case r.Sink != nil:
		return topology.KindSink
	case r.HTTP != nil:
		return topology.KindHTTP
	}
	return r.Mode
}

// program reports whether the role runs one.
func (r Role) program() bool { return len(r.Exec) > 0 || r.Sh != "" }
