package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// benchTeam is the processes of a bench, tap first, sink last. Each is asked one thing at a time.
type benchTeam []*benchMate

// benchMate is one process: `weir bench-node`.
type benchMate struct {
	role  string
	cmd   *exec.Cmd
	stdin io.Closer
	in    *json.Encoder
	out   *json.Decoder
}

// runBench measures. Call it from the main goroutine: see main.
func runBench(cfg benchConfig, stderr io.Writer) (f benchFigures, err error) {
	if err := cfg.validate(); err != nil {
		return f, err
	}
	team, hello, err := startBench(cfg, stderr)
	defer func() { err = errors.Join(err, team.stop()) }()
	if err != nil {
		return f, err
	}
	if _, err := team.tap().ask(benchOrder{Do: benchRecords, For: benchWarmTime}); err != nil {
		return f, err
	}
	var all benchRounds
	for range cfg.Rounds {
		if err := team.round(&all, hello); err != nil {
			return f, err
		}
	}
	light, err := team.sink().ask(benchOrder{Do: benchLags})
	f = all.figures(cfg)
	f.P50Micros, f.P99Micros = rounded(micro(light.P50), 1), rounded(micro(light.P99), 1)
	return f, err
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// startBench starts the processes; hello is the sink's, with the addresses of the raw streams.
func startBench(cfg benchConfig, stderr io.Writer) (team benchTeam, hello benchAnswer, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, hello, fmt.Errorf("find the program to run nodes with: %w", err)
	}
	seat := benchSeat{Hops: cfg.Hops, Size: int(cfg.Size), Secret: newSecret()}
	for ; seat.Index <= cfg.Hops; seat.Index++ {
		m, err := startMate(exe, seat, stderr)
		if err != nil {
			return team, hello, err
		}
		team = append(team, m)
		if hello, err = m.answer(); err != nil {
			return team, hello, err
		}
		if seat.Join == "" {
			seat.Join = hello.Addr
		}
	}
	return team, hello, nil
}

func startMate(exe string, seat benchSeat, stderr io.Writer) (*benchMate, error) {
	m := &benchMate{role: seat.role(), cmd: &exec.Cmd{Path: exe, Args: []string{"weir", "bench-node"}, Stderr: stderr}}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := m.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the process of %s: %w", m.role, err)
	}
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the process of %s: %w", m.role, err)
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the process of %s: %w", m.role, err)
	}
	m.stdin, m.in, m.out = stdin, json.NewEncoder(stdin), json.NewDecoder(stdout)
	_ = m.in.Encode(seat) // if it has ended, its answer does not come
	return m, nil
}

func (t benchTeam) tap() *benchMate  { return t[0] }
func (t benchTeam) sink() *benchMate { return t[len(t)-1] }

// stop ends all processes and waits for them.
func (t benchTeam) stop() error {
	var errs []error
	for _, m := range t {
		m.stdin.Close()
	}
	for _, m := range t {
		if err := m.cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("the process of %s: %w", m.role, err))
		}
	}
	return errors.Join(errs...)
}

// round measures each thing once.
func (t benchTeam) round(all *benchRounds, raw benchAnswer) error {
	quic, err := t.tap().ask(benchOrder{Do: benchQUIC, Addr: raw.QUIC, For: benchQUICTime})
	if err != nil {
		return err
	}
	before, err := t.cpu()
	if err != nil {
		return err
	}
	records, err := t.tap().ask(benchOrder{Do: benchRecords, For: benchRecordsTime})
	if err != nil {
		return err
	}
	after, err := t.cpu()
	if err != nil {
		return err
	}
	if records.Records == 0 {
		return fmt.Errorf("no record went in %s: the machine is too busy to measure", benchRecordsTime)
	}
	tls, err := t.tap().ask(benchOrder{Do: benchTLS, Addr: raw.TLS, For: benchTLSTime})
	if err != nil {
		return err
	}
	light := max(benchLightEvery, benchLightPart*records.Took/time.Duration(records.Records))
	if _, err := t.tap().ask(benchOrder{Do: benchRecords, For: benchLightTime, Every: light}); err != nil {
		return err
	}
	all.quic = append(all.quic, quic.BytesPerSecond)
	all.tls = append(all.tls, tls.BytesPerSecond)
	all.records = append(all.records, float64(records.Records)/records.Took.Seconds())
	all.cpu = append(all.cpu, micro(after-before)/float64(records.Records))
	all.seconds += records.Took.Seconds()
	return nil
}

// cpu is the processor time that all processes have used.
func (t benchTeam) cpu() (sum time.Duration, err error) {
	for _, m := range t {
		a, err := m.ask(benchOrder{Do: benchCPU})
		if err != nil {
			return 0, err
		}
		sum += a.CPU
	}
	return sum, nil
}

// ask gives an order and waits for what comes of it.
func (m *benchMate) ask(o benchOrder) (benchAnswer, error) {
	_ = m.in.Encode(o) // if it has ended, its answer does not come
	return m.answer()
}

func (m *benchMate) answer() (a benchAnswer, err error) {
	if err := m.out.Decode(&a); err != nil {
		return a, fmt.Errorf("the process of %s ended early", m.role)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %s", m.role, a.Error)
	}
	return a, nil
}
