package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weir/topology"
)

// dirConfig is that of a node with a data dir and one role.
func dirConfig(dir string, secret byte) Config {
	return Config{
		DataDir: dir, Secret: bytes.Repeat([]byte{secret}, secretBytes), Roles: []Role{{Name: "p/work"}}, Log: slog.New(slog.DiscardHandler),
	}
}

func TestDataDirKeepsWhoTheNodeIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if id, err := KeptID(dir); id != "" || err != nil {
		t.Errorf("before the first start: %q, %v", id, err)
	}
	var first identity
	for boot := uint64(1); boot <= 3; boot++ {
		d, err := openDataDir(dirConfig(dir, 1))
		if err != nil {
			t.Fatal(err)
		}
		if boot == 1 {
			first = d.identity
		}
		if d.Boot != boot || d.ID != first.ID || !bytes.Equal(d.Seed, first.Seed) || !strings.HasPrefix(string(d.ID), "work-") {
			t.Errorf("start %d: %+v, the first %+v", boot, d.identity, first)
		}
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := KeptID(dir); id != first.ID || err != nil {
		t.Errorf("kept: %q, %v", id, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, name := range []string{"node.json", "log", "lock"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	// Without a dir the node is another at each start.
	a, err := openDataDir(dirConfig("", 1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := openDataDir(dirConfig("", 1))
	if err != nil || a.ID == b.ID || a.Boot != 1 || b.Boot != 1 || a.store != nil {
		t.Errorf("without a dir: %+v, %+v, %v", a, b, err)
	}
}

// A process that dies while it counts its start leaves the count before.
func TestDataDirHalfWritten(t *testing.T) {
	dir := t.TempDir()
	openAndClose(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "node.json.new"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openDataDir(dirConfig(dir, 1))
	if err != nil || d.Boot != 2 {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
}

func openAndClose(t *testing.T, dir string) topology.NodeID {
	t.Helper()
	d, err := openDataDir(dirConfig(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	return d.ID
}

func TestDataDirRefused(t *testing.T) {
	edit := func(t *testing.T, path string, f func([]byte) []byte) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string, cfg *Config)
		code  int
		want  string
	}{
		{"another cluster", func(t *testing.T, _ string, cfg *Config) { cfg.Secret = bytes.Repeat([]byte{2}, secretBytes) }, 78,
			"data dir DIR: it belongs to cluster c6bb91ad55bf2d74, and the secret is that of cluster da4015283fa838c8: start with the other secret, or choose another directory"},
		{"another node", func(t *testing.T, _ string, cfg *Config) { cfg.ID = "b" }, 78,
			"data dir DIR: it belongs to node ID, not to b: leave out the name, or choose another directory"},
		{"a newer program", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/node.json", func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":1`), []byte(`"version":9`), 1) })
		}, 78, "data dir DIR: it was written by a newer weir: its format is 9, this one reads 1"},
		{"a bit of the identity", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/node.json", func(b []byte) []byte { return bytes.Replace(b, []byte(`"boot":1`), []byte(`"boot":3`), 1) })
		}, 74, "data dir DIR: node.json is damaged: remove all in DIR but dead.db, the dead letters, and the node starts anew under another name"},
		{"half an identity", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/node.json", func(b []byte) []byte { return b[:len(b)/2] })
		}, 74, "data dir DIR: node.json is damaged: remove all in DIR but dead.db, the dead letters, and the node starts anew under another name"},
		{"an empty identity", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/node.json", func(b []byte) []byte { return nil })
		}, 74, "data dir DIR: node.json is damaged: remove all in DIR but dead.db, the dead letters, and the node starts anew under another name"},
		{"no identity", func(t *testing.T, dir string, _ *Config) {
			if err := os.Remove(dir + "/node.json"); err != nil {
				t.Fatal(err)
			}
		}, 74, "data dir DIR: node.json, which says whose log this is, is missing: put it back, or remove all in DIR but dead.db, the dead letters, and the node starts anew under another name"},
		{"no log", func(t *testing.T, dir string, _ *Config) {
			if err := os.Remove(dir + "/log"); err != nil {
				t.Fatal(err)
			}
		}, 74, "data dir DIR: log, which the node must not forget, is missing: put it back, or remove all in DIR but dead.db, the dead letters, and the node starts anew under another name"},
		{"a torn log", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/log", func(b []byte) []byte { return b[:5000] })
		}, 74, "data dir DIR: log store DIR/log: the file is damaged: it has 5000 of 20480 bytes: remove all in DIR but dead.db, the dead letters, and the node starts anew under another name"},
		{"a log that is none", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/log", func(b []byte) []byte { return bytes.Repeat([]byte("x"), 1<<16) })
		}, 74, "data dir DIR: log store DIR/log: the file is damaged: one of its first pages does not fit its checksum: remove all in DIR but dead.db, the dead letters, and the node starts anew under another name"},
		{"torn letters", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/dead.db", func(b []byte) []byte { return b[:5000] })
		}, 74, "data dir DIR: dead.db, which holds dead letters: the file is damaged: "},
		{"letters that are none", func(t *testing.T, dir string, _ *Config) {
			edit(t, dir+"/dead.db", func(b []byte) []byte { return bytes.Repeat([]byte("x"), 1<<16) })
		}, 74, "data dir DIR: dead.db, which holds dead letters: the file is damaged: "},
		{"a file", func(t *testing.T, dir string, cfg *Config) { cfg.DataDir = dir + "/log" }, 78,
			"data dir DIR: there is a file of that name: choose another directory"},
		{"below a file", func(t *testing.T, dir string, cfg *Config) { cfg.DataDir = dir + "/log/x" }, 78,
			"data dir DIR: there is a file of that name: choose another directory"},
		{"read-only", func(t *testing.T, dir string, cfg *Config) {
			cfg.DataDir = mount(t, syscall.MS_RDONLY, "") + "/d"
		}, 74, "data dir DIR: make it: read-only file system: a node must be able to write there"},
		{"full", func(t *testing.T, dir string, cfg *Config) { cfg.DataDir = mount(t, 0, "size=16k") }, 74,
			"log store DIR/log: no space left on device (0 bytes are free)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			id := openAndClose(t, dir)
			cfg := dirConfig(dir, 1)
			tt.spoil(t, dir, &cfg)
			_, err := openDataDir(cfg)
			want := strings.NewReplacer("DIR", cfg.DataDir, "ID", string(id)).Replace(tt.want)
			var coded interface{ ExitCode() int }
			if !errors.As(err, &coded) || coded.ExitCode() != tt.code || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant %d, %s", err, tt.code, want)
			}
		})
	}
}

// mount makes a file system of its own for the test, which needs root.
func mount(t *testing.T, flags uintptr, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Skipf("only root may mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDataDirInUse starts a process that holds the directory: the others are told its number.
func TestDataDirInUse(t *testing.T) {
	dir := t.TempDir()
	openAndClose(t, dir)
	holder := exec.Command("flock", filepath.Join(dir, "lock"), "-c", "echo $$ >"+filepath.Join(dir, "lock")+"; echo; exec sleep 60")
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Skipf("flock(1) is not here to hold the lock: %v", err)
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait() // killed
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = openDataDir(dirConfig(dir, 1))
	want := fmt.Sprintf("data dir %s: it is in use by process %s: stop that node, or choose another directory", dir, bytes.TrimSpace(pid))
	var coded interface{ ExitCode() int }
	if !errors.As(err, &coded) || coded.ExitCode() != 75 || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}
