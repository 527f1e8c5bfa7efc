package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"weir/node/api"
)

// addAddr adds --addr to the flags of a verb that asks a node.
func addAddr(flags *pflag.FlagSet, addr *string) {
	flags.StringVar(addr, "addr", "", "ask the node at `ADDR`: unix:PATH (default the only socket of yours, or any where all are of one cluster)")
}

// nodeAt returns the address of the node to ask: addr, or else one that runs here.
func nodeAt(ctx context.Context, addr string) (string, error) {
	if addr != "" {
		return addr, nil
	}
	paths, err := api.Sockets()
	if len(paths) < 2 || err != nil {
		return onlySocket(paths, err)
	}
	cluster := ""
	for _, path := range paths {
		st, err := api.Get(ctx, "unix:"+path)
		switch {
		case err != nil: // it comes or goes
		case cluster == "":
			addr, cluster = "unix:"+path, st.Cluster
		case st.Cluster != cluster:
			return onlySocket(paths, nil)
		}
	}
	return cmp.Or(addr, "unix:"+paths[0]), nil
}

// onlySocket picks the node to ask among the sockets of this user.
func onlySocket(paths []string, err error) (addr string, _ error) {
	switch {
	case err != nil:
		return "", err
	case len(paths) == 0:
		return "", &exitError{exitUnreachable, fmt.Errorf("no node of yours runs here: there is no socket in %s; name one with --addr", api.Dir())}
	case len(paths) > 1:
		return "", &exitError{exitUsage, fmt.Errorf("several nodes of yours run here; choose one:\n  --addr unix:%s",
			strings.Join(paths, "\n  --addr unix:"))}
	}
	return "unix:" + filepath.Clean(paths[0]), nil
}

// writeJSON prints v for programs, and for people if indented; "->" stays as it is.
func writeJSON(w io.Writer, v any, indented bool) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if indented {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// call makes a call at the node at addr, as nodeAt takes it.
func call(ctx context.Context, addr, name string, in, out any) error {
	addr, err := callAt(ctx, addr, name)
	if err != nil {
		return err
	}
	return api.Do(ctx, addr, name, in, out)
}

// flow asks the node at addr, as nodeAt takes it, for what takes long.
func flow(ctx context.Context, addr, name string, q url.Values, body io.Reader, each func(json.RawMessage) error) error {
	addr, err := callAt(ctx, addr, name)
	if err != nil {
		return err
	}
	return api.Stream(ctx, addr, name, q, body, each)
}

// callAt is nodeAt for what a node does on its Unix socket only.
func callAt(ctx context.Context, addr, name string) (string, error) {
	addr, err := nodeAt(ctx, addr)
	if err == nil && !strings.HasPrefix(addr, "unix:") {
		err = &exitError{exitUsage, fmt.Errorf("a node takes calls on its Unix socket only: --addr unix:PATH; from elsewhere, ssh HOST weir %s", strings.ReplaceAll(name, "/", " "))}
	}
	return addr, err
}
