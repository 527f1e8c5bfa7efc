package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"weir/node/api"
	"weir/node/tap"
	"weir/stream"
)

// put brings what the body holds, cut as the put tap of a pipeline says, into the pipeline, and says
// how far it is until all of it is acked. It takes what the links take, and waits where the pipeline
// does.
func (n *Node) put(ctx context.Context, q url.Values, body api.Body, tell func(any) error) error {
	in, r, err := n.putTo(q.Get("to"))
	if err != nil {
		return err
	}
	t, err := tap.Stdin(body, r)
	if err != nil {
		return err
	}
	parts, err := t.Partitions(ctx)
	if err != nil {
		return err
	}
	reader, err := t.Open(ctx, parts[0], nil)
	if err != nil {
		return err
	}
	pr := &putReader{Reader: reader, in: in, stop: body.Stop}
	in.reader = pr
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ran := make(chan error, 1)                       // length 1: it may end when nobody looks
	go func() { ran <- n.injections.run(ctx, in) }() // ended by ctx or the body's end
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for err = tell(pr.far()); ; err = tell(pr.far()) {
		if err != nil { // nobody waits
			cancel()
			body.Stop()
			return errors.Join(err, <-ran)
		}
		select {
		case <-tick.C:
			continue
		case err = <-ran:
		}
		break
	}
	switch {
	case err == nil:
		err = pr.failed()
	case ctx.Err() != nil: // the asker has gone as well, or hears it
		err = errNodeEnds
	}
	far := pr.far()
	if in.id.Gen != 0 {
		far.Letters = n.lettersOf(context.WithoutCancel(ctx), in.id)
	}
	return errors.Join(tell(far), err)
}

// errNodeEnds ends what a node was asked and has not done.
var errNodeEnds = &api.Error{Status: http.StatusServiceUnavailable, Exit: 69, Text: "the node that was asked has left"}

// putTo finds the put tap that is meant, and how it cuts.
func (n *Node) putTo(name string) (*injection, tap.Config, error) {
	s := n.consensus.State()
	if err := knows(s, name); err != nil {
		return nil, tap.Config{}, err
	}
	pipeline, role, _ := strings.Cut(name, "/")
	p, _ := s.Pipeline(pipeline)
	var taps []string
	for _, r := range p.Roles {
		if r.Put && (role == "" || role == r.Name) {
			taps = append(taps, r.Name)
		}
	}
	switch {
	case len(taps) == 0 && role != "":
		return nil, tap.Config{}, &api.Error{Status: http.StatusConflict, Exit: 2, Text: fmt.Sprintf("role %s takes nothing from weir put: only one with tap: put does", name)}
	case len(taps) == 0:
		return nil, tap.Config{}, &api.Error{Status: http.StatusConflict, Exit: 2, Text: fmt.Sprintf("pipeline %s takes nothing from weir put: no role of it has tap: put", name)}
	case len(taps) > 1:
		return nil, tap.Config{}, &api.Error{Status: http.StatusConflict, Exit: 2, Text: fmt.Sprintf("pipeline %s has several put taps: choose %s/%s", name, name, strings.Join(taps, " or "+name+"/"))}
	}
	r, _ := p.Role(taps[0])
	return &injection{pipeline: pipeline, tap: r.Name}, tap.Config{Block: r.Records == "block", RecordMax: p.RecordMax}, nil
}

// putReader counts what is read and acked of a put. Its marks are numbers of lines. What is wrong
// with the body ends it as its end would: what came before it is finished.
type putReader struct {
	stream.Reader
	in   *injection
	stop func()      // lets a Read that waits fail
	hook func() bool // undoes that the end of reading does so; nil before the first Next

	mu    sync.Mutex
	done  api.Put
	ended bool // by the body
	err   error
}

func (pr *putReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	if pr.hook == nil { // all calls have the same ctx
		pr.hook = context.AfterFunc(ctx, pr.stop)
	}
	out, _, err := pr.Reader.Next(ctx)
	if err != nil {
		pr.hook()
	}
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if err == nil {
		lines := stream.Lines(out.Body)
		pr.done.Read++
		pr.done.ReadL += lines
		out.Port = pr.in.port
		return out, binary.AppendUvarint(nil, lines), nil
	}
	if ctx.Err() != nil {
		return stream.Out{}, nil, context.Cause(ctx)
	}
	if pr.ended = true; !errors.Is(err, io.EOF) {
		pr.err = err
		if code := stream.ExitCode(err); code > 0 {
			pr.err = &api.Error{Status: http.StatusUnprocessableEntity, Exit: code, Text: err.Error()}
		}
	}
	return stream.Out{}, nil, io.EOF
}

func (pr *putReader) Done(m stream.Mark, _ error) {
	lines, _ := binary.Uvarint(m)
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.done.Acked++
	pr.done.Lines += lines
}

func (pr *putReader) far() api.Put {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.done.Name = pr.in.pipeline + "/" + pr.in.tap
	return pr.done
}

// failed says why not all of the body was read.
func (pr *putReader) failed() error {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if !pr.ended {
		return &api.Error{Status: http.StatusServiceUnavailable, Exit: 75, Text: "this node leaves: put the rest by another"}
	}
	return pr.err
}
