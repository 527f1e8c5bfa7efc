package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSetFromEnv(t *testing.T) {
	env := map[string]string{"WEIR_VOTERS": "5", "WEIR_LOG_LEVEL": "debug", "WEIR_SET": "a=b=c", "WEIR_MEMORY": "1GiB"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	flags := newUp().Flags()
	if err := flags.Parse([]string{"--memory", "32KiB"}); err != nil {
		t.Fatal(err)
	}
	if err := setFromEnv(flags, lookup); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"voters": "5", "log-level": "debug", "memory": "32KiB", "json": "false"} {
		if got := flags.Lookup(name).Value.String(); got != want {
			t.Errorf("--%s is %s, want %s", name, got, want)
		}
	}
	if got := flags.Lookup("set").Value.(settings)["a"]; got != "b=c" {
		t.Errorf("--set gave %q", got)
	}
	env = map[string]string{"WEIR_MEMORY": "much"}
	err := setFromEnv(newUp().Flags(), lookup)
	if want := "WEIR_MEMORY=much: want a size, as 64MiB or 65536"; err == nil || err.Error() != want {
		t.Errorf("setFromEnv: %v, want %s", err, want)
	}
}

func TestWithoutFlags(t *testing.T) {
	env := []string{"PATH=/bin", "WEIR_HTTP=x", "WEIR_SECRET=s", "WEIR_LOG_LEVEL=debug", "WEIR_ANYTHING=1", "WEIR_ROLE=r"}
	got := withoutFlags(env, newStart().Flags())
	if diff := cmp.Diff([]string{"PATH=/bin", "WEIR_SECRET=s", "WEIR_ANYTHING=1"}, got); diff != "" {
		t.Errorf("withoutFlags (-want +got):\n%s", diff)
	}
	if len(env) != 6 || env[1] != "WEIR_HTTP=x" {
		t.Error("it changed what it was given")
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "65536": 1 << 16, "64KiB": 1 << 16, "4MiB": 4 << 20, "1GiB": 1 << 30} {
		var s byteSize
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("Set(%s): %d, %v; want %d", text, s, err, want)
		}
		var again byteSize
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%s was written as %s, which reads as %d, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "x", "MiB", "4MB", "4 MiB", "1.5MiB", "9223372036854775807KiB", "99999999999999999999"} {
		var s byteSize
		if err := s.Set(text); err == nil {
			t.Errorf("Set(%q) = %d, want an error", text, s)
		}
	}
}

// TestUsage checks what needs no node: mistakes in the command line exit with 2 and say where
// to look.
func TestUsage(t *testing.T) {
	tests := []struct {
		args string
		code int
		want string // in stderr
	}{
		{"", 0, ""},
		{"--help", 0, ""},
		{"version", 0, ""},
		{"--version", 0, ""},
		{"--json", 2, "unknown flag: --json"},
		{"version --json", 0, ""},
		{"nosuch", 2, `unknown command "nosuch" for "weir"`},
		{"statsu", 2, "Did you mean this?\n\tstatus"},
		{"up", 2, "up takes one pipeline file, not 0\nSee \"weir up --help\"."},
		{"up a b", 2, "up takes one pipeline file, not 2"},
		{"up a --votrs 3", 2, "unknown flag: --votrs"},
		{"up a --voters 9", 2, "--voters 9: choose 1 to 5"},
		{"up a --kill-orchestrator -1s", 2, "choose a time from 0 on"},
		{"up a --memory 64", 78, "a: there is no such file"},
		{"up a --set x", 2, "weir: --set x: want NAME=VALUE\n"},
		{"up a --log-level loud", 2, "weir: --log-level loud: choose debug, info, warn or error\n"},
		{"up a --voters many", 2, "weir: --voters many: want a number\n"},
		{"up a --kill-orchestrator soon", 2, "weir: --kill-orchestrator soon: want a time, as 1s or 500ms\n"},
		{"up a --json=maybe", 2, "weir: --json maybe: want true or false\n"},
		{"lint", 2, "lint takes one pipeline file, not 0"},
		{"pipe", 2, "pipe takes at least one command"},
		{"pipe cat -j -1", 2, "-j -1: choose 1 to 4096"},
		{"pipe cat -j 0", 2, "-j 0: choose 1 to 4096"},
		{"pipe cat -j 4097", 2, "-j 4097: choose 1 to 4096"},
		{"status x", 2, "unknown command"},
		{"status --addr x", 2, "an address is unix:PATH, HOST:PORT or http://HOST:PORT"},
		{"status --addr http://127.0.0.1:1", 69, "no node answers at http://127.0.0.1:1"},
		{"status --addr 127.0.0.1:1", 69, "no node answers at 127.0.0.1:1"},
		{"cluster nosuch", 2, "unknown command"},
		{"cluster init x", 2, "unknown command"},
		{"start --join 127.0.0.1:1", 2, "--join needs the secret of the cluster"},
	}
	t.Setenv(secretEnv, "")
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(strings.Fields(tt.args), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit %d, stderr:\n%s\nwant %d, %q", code, &stderr, tt.code, tt.want)
			}
			if code == 0 && stdout.Len() == 0 {
				t.Error("nothing on stdout")
			}
			if code != 0 && stdout.Len() > 0 {
				t.Errorf("stdout:\n%s", &stdout)
			}
		})
	}
}
