package sim

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"weir/topology"
)

// body makes what a record of that number holds after it came by path.
func (w *Workload) body(number uint64, path string) []byte {
	b := w.line(number, path)
	return append(b, bytes.Repeat([]byte("."), max(w.size-len(b), 0))...)
}

// line is a body that is not filled up: what a sink keeps of it.
func (w *Workload) line(number uint64, path string) []byte {
	b := strconv.AppendUint(nil, number, 10)
	b = append(append(append(b, ' '), path...), ' ')
	return strconv.AppendUint(b, mix(w.seed, mix(number, hash(path))), 16)
}

var errBody = errors.New("the body is not what was sent")

// parse takes a body apart and checks it.
func (w *Workload) parse(body []byte) (number uint64, path string, err error) {
	return takenApart(body, w.body)
}

// parseLine does so with what a sink kept.
func (w *Workload) parseLine(line []byte) (number uint64, path string, err error) {
	return takenApart(line, w.line)
}

func takenApart(body []byte, made func(uint64, string) []byte) (number uint64, path string, err error) {
	words := strings.Split(string(body), " ")
	if len(words) != 3 {
		return 0, "", errBody
	}
	number, err = strconv.ParseUint(words[0], 10, 64)
	if err != nil || string(made(number, words[1])) != string(body) {
		return 0, "", errBody
	}
	return number, words[1], nil
}

// broken notes a body that nobody sent.
func (w *Workload) broken(id topology.NodeID, role string, body []byte) {
	w.history.Add(Event{Kind: EventBroken, Node: id, Text: fmt.Sprintf("%s was given %.60q", role, body)})
}
