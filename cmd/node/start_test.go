package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestStartUsage(t *testing.T) {
	t.Setenv(secretEnv, strings.Repeat("0", 64))
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"--role a", 2, "--role a needs --file FILE, which says what it is, or its program after --"},
		{"--role a --role b", 2, "several --role need --file, which says what the roles are"},
		{"--role a --role a --file f", 2, "a --role is there twice"},
		{"--role a --role b -- cat", 2, "a program after -- needs one --role that it is to serve, not 2"},
		{"-- cat", 2, "a program after -- needs one --role that it is to serve, not 0"},
		{"--role a --file f -- cat", 2, "the role's program comes from --file or after --, not from both"},
		{"cat", 2, `start does not know what "cat" is: the program of a role comes after --`},
		{"--role a/b/c! -- cat", 2, `--role: the name "c!" has '!' in it`},
		{"--id a/b", 2, `--id: the name "a/b" has '/' in it`},
		{"--capacity -1", 2, "--capacity -1: choose 1 to 4096"},
		{"--capacity 4097", 2, "--capacity 4097: choose 1 to 4096"},
		{"--voters 6", 2, "--voters 6: choose 1 to 5"},
		{"--tag a.b", 2, `--tag a.b: the name "a.b" has '.' in it`},
		{"--tag" + strings.Repeat(" g --tag", 16) + " g", 2, "--tag: there are 17, at most 16 are allowed"},
		{"--join=", 2, "--join is empty: name a node of the cluster, or leave --join out to make one"},
		{"--join here", 2, "--join here: want HOST:PORT, as 10.0.0.1:7411"},
		{"--join 127.0.0.1:1,,", 2, "--join : want HOST:PORT"},
		{"--listen nowhere", 2, "--listen nowhere: want HOST:PORT or :PORT"},
		{"--listen 127.0.0.1:0 --join 10.0.0.1:7411", 2, "10.0.0.1:7411, on another machine, cannot send there: give --advertise"},
		{"--listen 127.0.0.1:0 --advertise 0.0.0.0", 2, "others cannot send there: give --advertise an address of this machine"},
		{"--secret-file s", 2, "the secret comes from WEIR_SECRET or from --secret-file, not from both"},
		{"--file nosuch.yaml", 78, "nosuch.yaml: there is no such file"},
		{"--role nosuch --file ../../examples/machines/factors.yaml", 2, "pipeline factors has no role nosuch: it has factor, numbers, out"},
		{"--role a -- nosuchprogram", 78, "role a: run nosuchprogram: no program of that name on PATH"},
		{"--role a -- ./nosuchprogram", 78, "role a: "},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(append([]string{"start"}, strings.Fields(tt.args)...), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stderr.String(), "weir: "+tt.want) && !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit %d, stderr:\n%s\nwant %d, %q", code, &stderr, tt.code, tt.want)
			}
			if lines := strings.Count(stderr.String(), "\n"); lines > 2 || code != 2 && lines != 1 {
				t.Errorf("%d lines:\n%s", lines, &stderr)
			}
		})
	}
}

func TestFindSecret(t *testing.T) {
	good := strings.Repeat("0f", 32)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name, env, file, want string
		code                  int
	}{
		{"none", "", "", "", 0},
		{"environment", good + "\n", "", good, 0},
		{"file", "", file(good + "\n"), good, 0},
		{"truncated", good[:60], "", "WEIR_SECRET has 60 characters, a secret has 64: was it copied whole?", 2},
		{"a line too much", "", file(good + "\n" + good), " has 129 characters, a secret has 64", 2},
		{"an empty file", "", file(""), " has 0 characters, a secret has 64", 2},
		{"a long file", "", file(strings.Repeat("x", 1<<20)), " has 4096 characters, a secret has 64", 2},
		{"no hex", strings.Repeat("0g", 32), "", "WEIR_SECRET has a character that is no hex digit: a secret is what weir cluster secret prints", 2},
		{"no file", "", "/nosuch/secret", "secret file: open /nosuch/secret: no such file or directory", 78},
	} {
		got, err := findSecret(tt.env, tt.file)
		var coded *exitError
		switch {
		case tt.code == 0:
			if want, _ := hex.DecodeString(tt.want); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %x, %v", tt.name, got, err)
			}
		case !errors.As(err, &coded) || coded.Code != tt.code || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case strings.Contains(err.Error(), "0f0f"):
			t.Errorf("%s: the secret is in the error: %v", tt.name, err)
		}
	}
	if a, b := newSecret(), newSecret(); len(a) != secretBytes || slices.Equal(a, b) {
		t.Errorf("new secrets %x and %x", a, b)
	}
}
