package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"weir/node/api"
)

func newPut() *cobra.Command {
	var addr string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "put PIPELINE[/ROLE] [FILE...]",
		Short: "Bring lines into a pipeline, and wait until all have arrived",
		Long: `put reads files, or stdin, which is - among them, and brings their lines into a pipeline of which a role has
tap: put. Any node takes them; put reads as fast as the pipeline takes records, and waits where it is paused or a role
has no node. It exits 0 when all that came of every line is at its end; 65 where some are dead letters,
or a line is longer than record-max. Where put ends early it says how many lines have arrived: what was
under way besides may have, too.

The first Ctrl-C ends the input and waits for what is under way, the second ends the waiting.`,
		Example:           "  tail -n 100 orders.jsonl | weir put enrich\n  weir put enrich/orders orders-*.jsonl",
		ValidArgsFunction: completePut,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("put takes a pipeline, or the role of one that takes lines as PIPELINE/ROLE, and files")
			}
			return nil
		},
	}
	addAddr(cmd.Flags(), &addr)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON at the end")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		files, err := openAll(args[1:])
		if err != nil {
			return err
		}
		p := putRun{con: newConsole(cmd.ErrOrStderr())}
		err = p.run(cmd.Context(), addr, args[0], files)
		return p.end(cmd.OutOrStdout(), asJSON, err)
	})
	return cmd
}

// openAll opens the files; none, or one called -: stdin.
func openAll(paths []string) (files []*os.File, err error) {
	if len(paths) == 0 {
		return []*os.File{os.Stdin}, nil
	}
	for _, path := range paths {
		if path == "-" {
			files = append(files, os.Stdin)
			continue
		}
		f, err := os.Open(path)
		if err == nil {
			if info, stat := f.Stat(); stat == nil && info.IsDir() {
				err = fmt.Errorf("%s is a directory: name the files in it", path)
			}
		}
		if err != nil {
			return nil, &exitError{exitUsage, err}
		}
		files = append(files, f)
	}
	return files, nil
}

// putRun is one put.
type putRun struct {
	con         *console
	far         api.Put     // the last that the node said
	interrupted atomic.Bool // the input was ended by Ctrl-C
	read        error       // why not all of the input could be read
}

// run sends the files' lines to the pipeline or role of that name.
func (p *putRun) run(ctx context.Context, addr, name string, files []*os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, feed := io.Pipe()
	fed := make(chan error, 1) // length 1: nobody may look
	go func() {                // ended by the input, or the pipe's end; where a terminal stays silent, with the process
		err := copyLines(feed, files)
		fed <- err
		feed.CloseWithError(err)
	}()
	signals := make(chan os.Signal, 2) // length 2: the second must not get lost behind the first
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer close(done)
	defer signal.Stop(signals)
	group.Go(func() { // ended by done
		for {
			select {
			case <-signals:
				if p.interrupted.Swap(true) {
					cancel(errInterrupted)
				}
				feed.Close()
			case <-done:
				return
			}
		}
	})
	said := false
	err := flow(ctx, addr, "put", url.Values{"to": {name}}, body, func(b json.RawMessage) error {
		if p.interrupted.Load() && !said {
			said = true
			p.con.line("weir: interrupted: waiting for what is under way; interrupt again to stop at once")
		}
		if err := json.Unmarshal(b, &p.far); err != nil {
			return err
		}
		p.con.show(fmt.Sprintf("%s: %s read, %s arrived", p.far.Name, plural(p.far.ReadL, "line"), count(p.far.Lines)))
		return nil
	})
	p.con.show("")
	select {
	case p.read = <-fed:
		if errors.Is(p.read, io.ErrClosedPipe) { // we have closed it
			p.read = nil
		}
	default: // it waits for input that nobody wants any more
	}
	return err
}

// end says how a put ended.
func (p *putRun) end(w io.Writer, asJSON bool, err error) error {
	far := p.far
	if asJSON && far.Name != "" {
		if err := writeJSON(w, far, false); err != nil {
			return err
		}
	}
	arrived := fmt.Sprintf("%s of %s that were read had arrived", count(far.Lines), plural(far.ReadL, "line"))
	_, gone := errors.AsType[*api.UnreachableError](err)
	switch {
	case p.read != nil:
		return fmt.Errorf("%w: %s", p.read, arrived)
	case far.Name == "": // nothing has begun
		return err
	case errors.Is(err, errInterrupted), err == nil && p.interrupted.Load():
		return &exitError{exitInterrupted, fmt.Errorf("interrupted: %s", arrived)}
	case gone:
		return &exitError{exitUnreachable, fmt.Errorf("%w: %s", err, arrived)}
	case err != nil:
		return fmt.Errorf("%w: %s", err, arrived)
	case far.Letters > 0:
		return &exitError{exitData, fmt.Errorf("%s put, of which came %s: weir dead list %s",
			plural(far.Lines, "line"), plural(uint64(far.Letters), "dead letter"), strings.Split(far.Name, "/")[0])}
	case asJSON:
		return nil
	}
	_, err = fmt.Fprintf(w, "%s: %s arrived\n", far.Name, plural(far.Lines, "line"))
	return err
}

// copyLines copies all files, and ends the last line of each that others follow.
func copyLines(to io.Writer, files []*os.File) error {
	for i, f := range files {
		end := &lastByte{Writer: to, last: '\n'}
		_, err := io.Copy(end, f)
		f.Close()
		if err == nil && end.last != '\n' && i < len(files)-1 {
			_, err = to.Write([]byte{'\n'})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lastByte remembers the last byte that was written.
type lastByte struct {
	io.Writer
	last byte
}

func (w *lastByte) Write(b []byte) (int, error) {
	if len(b) > 0 {
		w.last = b[len(b)-1]
	}
	return w.Writer.Write(b)
}

// completePut completes a pipeline or role, then files.
func completePut(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return completeNames(pausable)(cmd, args, text)
}
