package tap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/stream"
)

func openGenerate(t *testing.T, g Generated, cfg Config, at stream.Mark) stream.Reader {
	t.Helper()
	tp, err := Generate(g, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, tp, at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGenerate(t *testing.T) {
	for _, tc := range []struct {
		g    Generated
		cfg  Config
		want string
	}{
		{Generated{Records: 2, Size: 16}, Config{}, `["000000000001 xxx" "000000000002 xxx"]`},
		{Generated{Records: 2, Size: 13}, Config{}, `["000000000001 " "000000000002 "]`},
		{Generated{Records: 3}, Config{}, `["000000000001" "000000000002" "000000000003"]`},
		{Generated{Records: 2, Size: 14}, Config{Block: true}, `["000000000001 x\n000000000002 x"]`},
		{Generated{Records: 2, Rate: 1000}, Config{}, `["000000000001" "000000000002"]`},
		{Generated{Records: 2, Rate: 1000}, Config{Block: true}, `["000000000001\n000000000002"]`},
	} {
		synctest.Test(t, func(t *testing.T) {
			bodies, _, err := readAll(openGenerate(t, tc.g, tc.cfg, nil))
			if got := fmt.Sprintf("%q", bodies); err != nil || got != tc.want {
				t.Errorf("%+v: got %s, %v; want %s", tc.g, got, err, tc.want)
			}
		})
	}
}

// Lines of any size, larger than a read too, and the same ones from any mark.
func TestGenerateSizes(t *testing.T) {
	for _, size := range []int{12, 100, 4096, 100_000, 1 << 20} {
		for _, block := range []bool{false, true} {
			g := Generated{Records: 2<<20/size + 3, Size: size}
			bodies, marks, err := readAll(openGenerate(t, g, Config{Block: block}, nil))
			if err != nil {
				t.Fatal(err)
			}
			all := string(joined(bodies))
			lines := strings.Split(strings.TrimSuffix(all, "\n"), "\n")
			if len(lines) != g.Records {
				t.Fatalf("%d lines of %d bytes, want %d", len(lines), size, g.Records)
			}
			for i, l := range lines {
				if len(l) != size || !strings.HasPrefix(l, fmt.Sprintf("%012d", i+1)) {
					t.Fatalf("line %d is %.20q of %d bytes", i+1, l, len(l))
				}
			}
			half := len(bodies) / 2
			rest, _, err := readAll(openGenerate(t, g, Config{Block: block}, marks[half]))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(joined(bodies[:half+1])) + string(joined(rest)); got != all {
				t.Errorf("size %d, block %v: it goes on otherwise from mark %d", size, block, half)
			}
		}
	}
}

// At a rate each line comes when it is due, not before and not in bursts.
func TestGenerateRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openGenerate(t, Generated{Rate: 8}, Config{}, nil)
		began := time.Now()
		for i := range 100 {
			if _, _, err := r.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			due := time.Duration(i) * time.Second / 8
			if late := time.Since(began) - due; late < 0 || late > time.Millisecond {
				t.Fatalf("line %d came %v after its time", i+1, late)
			}
		}
	})
}

// Who took nothing for a while gets a tenth of a second's lines at once, then the rate again.
func TestGenerateCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openGenerate(t, Generated{Rate: 1000}, Config{}, nil)
		time.Sleep(time.Minute)
		began := time.Now()
		atOnce := 0
		for range 1000 {
			if _, _, err := r.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if time.Since(began) == 0 {
				atOnce++
			}
		}
		if atOnce != 100 {
			t.Errorf("%d lines at once, want 100", atOnce)
		}
		if took := time.Since(began); took < 899*time.Millisecond || took > 901*time.Millisecond {
			t.Errorf("1000 lines took %v, want 900 ms", took)
		}
	})
}

func TestGenerateBlocksAtARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openGenerate(t, Generated{Rate: 1000, Size: 99}, Config{Block: true}, nil)
		began := time.Now()
		for range 10 {
			o, _, err := r.Next(t.Context())
			if lines := bytes.Count(o.Body, newline) + 1; err != nil || lines != 100 {
				t.Fatalf("a block of %d lines, %v; want 100", lines, err)
			}
		}
		if took := time.Since(began); took < 998*time.Millisecond || took > 1001*time.Millisecond {
			t.Errorf("1000 lines took %v, want 999 ms", took)
		}
	})
}

func TestGenerateIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := openGenerate(t, Generated{Rate: rateMin}, Config{}, nil)
		if _, _, err := r.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		why := errors.New("why")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, why)
		defer cancel()
		if _, _, err := r.Next(ctx); !errors.Is(err, why) {
			t.Errorf("error %v, want %v", err, why)
		}
	})
}

func TestGenerateErrors(t *testing.T) {
	nan := 0.0
	nan /= nan
	for _, tc := range []struct {
		g   Generated
		err string
	}{
		{Generated{Records: -1}, "tap generate: field Records: -1 is negative"},
		{Generated{Size: -1}, "tap generate: field Size: -1 is negative"},
		{Generated{Size: 1<<20 + 1}, "tap generate: Size: 1048577 is more than a record may hold, 1048576 bytes: raise record-max"},
		{Generated{Rate: -1}, "tap generate: field Rate: -1 lines a second is not between 1e-06 and 1e+09"},
		{Generated{Rate: 1e10}, "tap generate: field Rate: 1e+10 lines a second is not between 1e-06 and 1e+09"},
		{Generated{Rate: nan}, "tap generate: field Rate: NaN lines a second is not between 1e-06 and 1e+09"},
	} {
		if _, err := Generate(tc.g, Config{}); text(err) != tc.err {
			t.Errorf("error %q, want %q", text(err), tc.err)
		}
	}
}

func BenchmarkLines(b *testing.B) {
	tp, err := Generate(Generated{Size: 128}, Config{})
	if err != nil {
		b.Fatal(err)
	}
	r, err := tp.Open(b.Context(), "generate", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(129)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.Next(b.Context()); err != nil && err != io.EOF {
			b.Fatal(err)
		}
	}
}
