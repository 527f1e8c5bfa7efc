package node

import (
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"weir/consensus"
	"weir/node/dead"
	"weir/stream/mux"
	"weir/topology"
)

const (
	// dirVersion is that of the data dir's layout.
	dirVersion = 1
	// identityBytesMax is the most that is read of an identity, in bytes: it has some 200.
	identityBytesMax = 4 << 10
)

// dataDir is what a node keeps over its restarts, or without a path what it is for one life:
//
//	lock       locked by the process that runs there, and holds its number
//	node.json  who the node is, written at each start before the socket opens
//	log        what it must not forget of the log (consensus.Store), there from its first start on
//	dead.db    the dead letters that it keeps
type dataDir struct {
	path    string
	noSync  bool
	lock    *os.File         // nil without a path
	store   *consensus.Store // nil without a path
	letters *dead.Store      // likewise
	identity
}

// identity is who a node is. Whoever has it can run in the node's place.
type identity struct {
	Version int             `json:"version"`
	ID      topology.NodeID `json:"id"`
	Seed    []byte          `json:"seed"`    // of the node's key, ed25519
	Cluster string          `json:"cluster"` // whose secret it was made with
	Boot    uint64          `json:"boot"`    // counts the node's starts
}

// DirError says why a data dir cannot be used.
type DirError struct {
	Dir  string
	Err  error
	Code int // of sysexits.h: 74 the disk, 75 later, 78 the wrong directory
}

func (e *DirError) Error() string { return fmt.Sprintf("data dir %s: %v", e.Dir, e.Err) }
func (e *DirError) Unwrap() error { return e.Err }

// ExitCode is that of the process.
func (e *DirError) ExitCode() int { return e.Code }

// KeptID is the name of the node whose data dir that is; "" where there is none yet, or no dir.
func KeptID(dir string) (topology.NodeID, error) {
	if dir == "" {
		return "", nil
	}
	d := &dataDir{path: dir}
	_, err := d.read()
	return d.ID, err
}

// openDataDir takes the directory for this process and counts the node's start. What is wrong
// with the directory is a *DirError.
func openDataDir(cfg Config) (*dataDir, error) {
	cluster, err := mux.ClusterID(cfg.Secret)
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: cfg.DataDir, noSync: cfg.Hooks.noSync()}
	if d.path == "" {
		return d, d.become(cfg, cluster)
	}
	if err := d.take(); err != nil {
		return nil, err
	}
	if err := d.begin(cfg, cluster); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// become makes the node someone, at its first start.
func (d *dataDir) become(cfg Config, cluster string) error {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return fmt.Errorf("make the node's key: %w", err)
	}
	id := cmp.Or(cfg.ID, NewID(append(namesOf(cfg.Roles), "node")[0]))
	d.identity = identity{Version: dirVersion, ID: id, Seed: key.Seed(), Cluster: cluster, Boot: 1}
	return nil
}

// take makes the directory, if there is none, and locks it.
func (d *dataDir) take() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return d.disk("make it", err)
	}
	f, err := os.OpenFile(d.file("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return d.disk("lock it", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			by, _ := io.ReadAll(io.LimitReader(f, 20)) // a process number; empty if it has only just been locked
			return &DirError{d.path, fmt.Errorf("it is in use by process %s: stop that node, or choose another directory",
				cmp.Or(strings.TrimSpace(string(by)), "unknown")), 75}
		}
		return d.disk("lock it", err)
	}
	d.lock = f
	if err := errors.Join(f.Truncate(0), writeAt0(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return errors.Join(d.disk("lock it", err), d.close())
	}
	return nil
}

func writeAt0(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// begin reads who the node is, or makes it someone, counts the start and opens the store.
func (d *dataDir) begin(cfg Config, cluster string) error {
	known, err := d.read()
	switch {
	case err != nil:
		return err
	case known:
		err = d.belongs(cfg.ID, cluster)
	case d.has("log"):
		err = &DirError{d.path, fmt.Errorf("node.json, which says whose log this is, is missing: put it back, or %s", d.remedy()), 74}
	default:
		if err = d.become(cfg, cluster); err == nil {
			d.Boot = 0 // it has not started yet: there may be no log
			err = d.write()
		}
	}
	if err != nil {
		return err
	}
	if d.Boot > 0 && !d.has("log") {
		return &DirError{d.path, fmt.Errorf("log, which the node must not forget, is missing: put it back, or %s", d.remedy()), 74}
	}
	d.store, err = consensus.OpenStore(consensus.StoreConfig{Path: d.file("log"), NoSync: d.noSync, Broken: cfg.Broken})
	if errors.Is(err, consensus.ErrDamaged) {
		return &DirError{d.path, fmt.Errorf("%w: %s", err, d.remedy()), 74}
	}
	if err != nil {
		return err
	}
	if err := d.openLetters(); err != nil {
		return err
	}
	d.Boot++
	return d.write()
}

// openLetters opens the dead letters.
func (d *dataDir) openLetters() (err error) {
	d.letters, err = dead.Open(d.file("dead.db"), d.noSync)
	switch {
	case errors.Is(err, dead.ErrNewer):
		return &DirError{d.path, fmt.Errorf("dead.db: %w", err), 78}
	case errors.Is(err, dead.ErrDamaged):
		return &DirError{d.path, fmt.Errorf("dead.db, which holds dead letters: %w: move it away, and they are lost", err), 74}
	case err != nil:
		return d.disk("open dead.db", err)
	}
	return nil
}

// belongs refuses the directory of another node or another cluster.
func (d *dataDir) belongs(id topology.NodeID, cluster string) error {
	switch {
	case d.Cluster != cluster:
		return &DirError{d.path, fmt.Errorf("it belongs to cluster %s, and the secret is that of cluster %s: "+
			"start with the other secret, or choose another directory", d.Cluster, cluster), 78}
	case id != "" && id != d.ID:
		return &DirError{d.path, fmt.Errorf("it belongs to node %s, not to %s: leave out the name, or choose another directory", d.ID, id), 78}
	}
	return nil
}

func (d *dataDir) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(d.Seed) }

// close gives the directory free.
func (d *dataDir) close() error {
	var err error
	if d.store != nil {
		err = d.store.Close()
	}
	if d.letters != nil {
		err = errors.Join(err, d.letters.Close())
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

func (d *dataDir) has(name string) bool {
	_, err := os.Lstat(d.file(name))
	return err == nil
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// disk is an error of the system as ours.
func (d *dataDir) disk(what string, err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return &DirError{d.path, errors.New("there is a file of that name: choose another directory"), 78}
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err // the path is said
	}
	return &DirError{d.path, fmt.Errorf("%s: %w: a node must be able to write there", what, err), 74}
}

// remedy is what to do about a directory that cannot be read. The letters are still good.
func (d *dataDir) remedy() string {
	return "remove all in " + d.path + " but dead.db, the dead letters, and the node starts anew under another name"
}

// read reads node.json: known is false where there is none.
func (d *dataDir) read() (known bool, err error) {
	f, err := os.Open(d.file("node.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, d.disk("read it", err)
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, identityBytesMax))
	if err != nil {
		return false, d.disk("read it", err)
	}
	text, sum, _ := strings.Cut(string(b), "\n")
	var id identity
	if err := json.Unmarshal([]byte(text), &id); err == nil && id.Version > dirVersion {
		return false, &DirError{d.path, fmt.Errorf("it was written by a newer weir: its format is %d, this one reads %d", id.Version, dirVersion), 78}
	}
	if err := json.Unmarshal([]byte(text), &id); err != nil || sum != checksum(text) || len(id.Seed) != ed25519.SeedSize {
		return false, &DirError{d.path, fmt.Errorf("node.json is damaged: %s", d.remedy()), 74}
	}
	d.identity = id
	return true, nil
}

// write replaces node.json; the old one stays until the new one is on the disk.
func (d *dataDir) write() error {
	if err := d.replace(); err != nil {
		return d.disk("write it", err)
	}
	return nil
}

func (d *dataDir) replace() error {
	b, err := json.Marshal(d.identity)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.file("node.json.new"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(string(b) + "\n" + checksum(string(b)))
	if err == nil && !d.noSync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.file("node.json")); err != nil || d.noSync {
		return err
	}
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// checksum is the line behind node.json's first.
func checksum(text string) string {
	return fmt.Sprintf("%08x\n", crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)))
}
