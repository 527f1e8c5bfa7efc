package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"weir/node"
)

// version is what the build knows of itself.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of git, when built from a checkout
	Modified bool   `json:"modified,omitempty"` // the checkout had changes
	Go       string `json:"go"`
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		return writeVersion(cmd.OutOrStdout(), asJSON)
	})
	return cmd
}

func writeVersion(w io.Writer, asJSON bool) error {
	info, _ := debug.ReadBuildInfo() // nil only without modules
	v := versionOf(info)
	if asJSON {
		return json.NewEncoder(w).Encode(v)
	}
	line := "weir " + v.Version
	if v.Revision != "" {
		line += fmt.Sprintf(" (%.12s", v.Revision)
		if v.Modified {
			line += ", modified"
		}
		line += ")"
	}
	_, err := fmt.Fprintln(w, line+", "+v.Go)
	return err
}

// versionOf reads a build's own record; nil is a build without one.
func versionOf(info *debug.BuildInfo) version {
	v := version{Version: node.Version}
	if info == nil {
		return v
	}
	v.Go = info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
