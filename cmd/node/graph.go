package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"weir/node/api"
	"weir/topology"
)

func newGraph() *cobra.Command {
	var addr, pipeline string
	format := graphFormat("ascii")
	cmd := &cobra.Command{
		Use:   "graph [FILE]",
		Short: "Draw the graph of a pipeline file, or of a running cluster",
		Long: `graph draws the graph of a pipeline file; without a file, those of the running cluster.

  ascii    for a terminal: a line that ends in ^ or v joins the one it meets, lines that cross
           have nothing to do with each other; what cannot be drawn so is written as in the file
  dot      for Graphviz
  mermaid  for pages that know Mermaid
  svg      a picture, for light and dark pages
  json     roles and edges`,
		Example:           "  weir graph enrich.yaml\n  weir graph enrich.yaml --format svg > enrich.svg",
		ValidArgsFunction: completeFile,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("graph takes one pipeline file, not %d", len(args))
			}
			return nil
		},
	}
	addAddr(cmd.Flags(), &addr)
	cmd.Flags().Var(&format, "format", "`FORMAT` of the drawing: "+strings.Join(graphFormats, ", "))
	cmd.Flags().StringVar(&pipeline, "pipeline", "", "draw only the pipeline `NAME` of the cluster")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			f, err := loadDraft(args[0], cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return drawGraph(cmd.OutOrStdout(), format, f.Pipeline.Name, f.Pipeline.Graph)
		}
		at, err := nodeAt(cmd.Context(), addr)
		if err != nil {
			return err
		}
		st, err := api.Get(cmd.Context(), at)
		if err != nil {
			return err
		}
		return drawStatus(cmd.OutOrStdout(), format, pipeline, st)
	})
	return cmd
}

var graphFormats = []string{"ascii", "dot", "mermaid", "svg", "json"}

// graphFormat is the value of --format.
type graphFormat string

func (f *graphFormat) String() string { return string(*f) }
func (f *graphFormat) Type() string   { return "FORMAT" }

func (f *graphFormat) Set(text string) error {
	if !slices.Contains(graphFormats, text) {
		return errors.New("choose " + strings.Join(graphFormats, ", "))
	}
	*f = graphFormat(text)
	return nil
}

// drawStatus draws the pipelines of a cluster: any number for a terminal, otherwise one.
func drawStatus(w io.Writer, format graphFormat, only string, st api.Status) error {
	var names []string
	for _, p := range st.Pipelines {
		names = append(names, p.Name)
	}
	st.Pipelines = slices.DeleteFunc(st.Pipelines, func(p api.Pipeline) bool { return p.Name != cmp.Or(only, p.Name) })
	switch {
	case len(names) == 0:
		return errors.New("the cluster has no pipeline yet: weir apply FILE makes one")
	case len(st.Pipelines) == 0:
		return &exitError{exitUsage, fmt.Errorf("the cluster has no pipeline %s: it has %s", only, strings.Join(names, ", "))}
	case len(st.Pipelines) > 1 && format != "ascii":
		return &exitError{exitUsage, fmt.Errorf("the cluster has several pipelines: choose one with --pipeline: %s", strings.Join(names, ", "))}
	}
	for i, p := range st.Pipelines {
		g, err := topology.Parse(p.Graph)
		if err != nil {
			return fmt.Errorf("graph of pipeline %s: %w", p.Name, err)
		}
		if len(st.Pipelines) > 1 {
			title := p.Name + "\n\n"
			if i > 0 {
				title = "\n" + title
			}
			if _, err := io.WriteString(w, title); err != nil {
				return err
			}
		}
		if err := drawGraph(w, format, p.Name, g); err != nil {
			return err
		}
	}
	return nil
}

// drawGraph draws one graph.
func drawGraph(w io.Writer, format graphFormat, name string, g topology.Graph) error {
	var text string
	switch format {
	case "ascii":
		text = g.ASCII()
	case "dot":
		text = g.Dot()
	case "mermaid":
		text = g.Mermaid()
	case "svg":
		text = g.SVG(name)
	case "json":
		return writeJSON(w, struct {
			Pipeline string          `json:"pipeline"`
			Roles    []string        `json:"roles"`
			Edges    []topology.Edge `json:"edges"`
		}{name, g.Roles(), g.Edges}, true)
	}
	_, err := io.WriteString(w, text)
	return err
}
