package wire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func genRecord(t *rapid.T) Record {
	r := Record{
		Source: rapid.SampledFrom([]uint64{1, 2, 1 << 63}).Draw(t, "source"),
		Gen:    rapid.SampledFrom([]uint64{7, 8}).Draw(t, "gen"),
		Claim:  rapid.Uint64Range(0, 3).Draw(t, "claim"),
		Seq:    rapid.OneOf(rapid.Uint64Range(0, 9), rapid.Uint64()).Draw(t, "seq"),
		Path:   rapid.SampledFrom([]uint64{1, 3, 5}).Draw(t, "path"),
		Body:   rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body"),
	}
	r.Attempt = rapid.Uint64Range(1, 4).Draw(t, "attempt")
	r.Suspect = rapid.Bool().Draw(t, "suspect")
	if rapid.Bool().Draw(t, "keyed") {
		r.Key = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "key")
	}
	if rapid.Bool().Draw(t, "headed") {
		r.Header = map[string]string{rapid.String().Draw(t, "k"): rapid.String().Draw(t, "v"), "x": ""}
	}
	return r
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(genRecord), 1, 50).Draw(t, "records")
		buf := make([]byte, BatchPrefix)
		var c Coder
		for i := range want {
			before := len(buf)
			buf = c.Append(buf, &want[i])
			if got, bound := len(buf)-before, RecordBytes(&want[i]); got > bound {
				t.Fatalf("record %d takes %d bytes, its bound is %d", i, got, bound)
			}
		}
		FinishBatch(buf, 42, len(want), true)
		typ, n, err := Header(buf, 1<<20)
		if err != nil || typ != TypeBatch || n != len(buf)-HeaderBytes {
			t.Fatalf("Header = %v %d %v", typ, n, err)
		}
		b, err := ParseBatch(buf[HeaderBytes:])
		if err != nil || b.First != 42 || !b.Spent || b.Count != len(want) {
			t.Fatalf("ParseBatch = %+v %v", b, err)
		}
		for i := range want {
			var got Record
			if err := b.Next(&got); err != nil {
				t.Fatalf("record %d: %v", i, err)
			}
			if len(want[i].Body) == 0 {
				want[i].Body = got.Body
			}
			if want[i].Key != nil && len(want[i].Key) == 0 {
				want[i].Key = got.Key
			}
			if d := cmp.Diff(want[i], got); d != "" {
				t.Fatalf("record %d (-want +got):\n%s", i, d)
			}
		}
	})
}

func TestControlRoundTrip(t *testing.T) {
	hello := Hello{1, 3, "p", "a", "err", "b", 2, 9, 17, 1 << 20}
	ok := HelloOK{1, 100, 50, 3, 1 << 62, []Mark{{1, 2, 3, 4, []byte("pos")}, {5, 6, 7, 8, []byte("x")}}}
	refuse := HelloErr{CodeStale, "behind"}
	mark := Mark{1, 2, 3, 4, []byte("pos")}
	clear := Clear{1 << 40}
	nack := Nack{5, CodeStop, 78, 1500, "no such program"}
	ack := Ack{7, 9, []Range{{0, 3}}, []Range{{4, 5}, {7, 100}}}
	check := func(name string, frame []byte, parse func([]byte) (any, error), want any) {
		t.Helper()
		_, n, err := Header(frame, 1<<20)
		if err != nil || n != len(frame)-HeaderBytes {
			t.Fatalf("%s: header %d %v", name, n, err)
		}
		got, err := parse(frame[HeaderBytes:])
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
		for i := range frame[HeaderBytes:] { // every shorter body is refused
			if _, err := parse(frame[HeaderBytes : HeaderBytes+i]); err == nil {
				t.Errorf("%s: cut to %d bytes: no error", name, i)
			}
		}
		if _, err := parse(append(bytes.Clone(frame[HeaderBytes:]), 0)); !errors.Is(err, ErrBad) {
			t.Errorf("%s: a byte too many: %v", name, err)
		}
	}
	check("hello", hello.Append(nil), func(b []byte) (any, error) { return ParseHello(b) }, hello)
	check("hello-ok", ok.Append(nil), func(b []byte) (any, error) { return ParseHelloOK(b) }, ok)
	check("hello-err", refuse.Append(nil), func(b []byte) (any, error) { return ParseHelloErr(b) }, refuse)
	check("mark", mark.Append(nil), func(b []byte) (any, error) { return ParseMark(b) }, mark)
	check("clear", clear.Append(nil), func(b []byte) (any, error) { return ParseClear(b) }, clear)
	check("nack", nack.Append(nil), func(b []byte) (any, error) { return ParseNack(b) }, nack)
	check("ack", ack.Append(nil), func(b []byte) (any, error) { var a Ack; err := a.Parse(b); return a, err }, ack)
}

// What does not fit a HELLO-OK is left out.
func TestHelloOKFits(t *testing.T) {
	h := HelloOK{Version: 1}
	for i := range uint64(100) {
		h.Marks = append(h.Marks, Mark{Source: i, Position: make([]byte, positionMax)})
	}
	frame := h.Append(nil)
	if _, _, err := Header(frame, 0); err != nil {
		t.Error(err)
	}
	if got, err := ParseHelloOK(frame[HeaderBytes:]); err != nil || len(got.Marks) < 10 || got.Marks[9].Source != 9 {
		t.Errorf("%d marks, %v", len(got.Marks), err)
	}
}

// A stranger's lengths never make us allocate.
func TestLengthsBeforeAllocation(t *testing.T) {
	huge := make([]byte, HeaderBytes)
	PutHeader(huge, TypeBatch, 1<<31)
	if _, _, err := Header(huge, 1<<20); !errors.Is(err, ErrLarge) {
		t.Errorf("a batch of 2 GiB: %v", err)
	}
	PutHeader(huge, TypeAck, ControlBytesMax+1)
	if _, _, err := Header(huge, 64<<20); !errors.Is(err, ErrLarge) {
		t.Errorf("an ack above the limit: %v", err)
	}
	body := make([]byte, batchHeaderBytes+10)
	body[9], body[10], body[11], body[12] = 0xff, 0xff, 0xff, 0xff
	if _, err := ParseBatch(body); !errors.Is(err, ErrBad) {
		t.Errorf("a batch that claims 4 G records: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	var c Coder
	b := c.Append(make([]byte, BatchPrefix), &Record{Source: 1, Seq: 3, Attempt: 2, Key: []byte("k"), Header: map[string]string{"a": "b"}, Body: []byte("body")})
	FinishBatch(b, 0, 1, false)
	f.Add(b[HeaderBytes:])
	a := Ack{Taken: 1, Limit: 2, Acked: []Range{{1, 2}}}
	f.Add(a.Append(nil)[HeaderBytes:])
	f.Add(Hello{Pipeline: "p"}.Append(nil)[HeaderBytes:])
	f.Add(Mark{Position: []byte("x")}.Append(nil)[HeaderBytes:])
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = ParseHello(body)
		_, _ = ParseHelloOK(body)
		_, _ = ParseHelloErr(body)
		_, _ = ParseMark(body)
		_, _ = ParseNack(body)
		_, _ = ParseClear(body)
		var a Ack
		if a.Parse(body) == nil {
			var again Ack
			if err := again.Parse(a.Append(nil)[HeaderBytes:]); err != nil {
				t.Fatalf("an ack that was read is refused when written again: %v", err)
			}
		}
		b, err := ParseBatch(body)
		for err == nil && b.Left() > 0 {
			var r Record
			if err = b.Next(&r); err == nil && len(r.Body) > len(body) {
				t.Fatal("a body larger than its batch")
			}
		}
	})
}

func BenchmarkCoder(b *testing.B) {
	body := make([]byte, 128)
	buf := make([]byte, BatchPrefix, BatchBytes)
	var c Coder
	n := 0
	b.ReportAllocs()
	b.SetBytes(128)
	for i := 0; b.Loop(); i++ {
		if len(buf)+256 > cap(buf) {
			FinishBatch(buf, 0, n, false)
			batch, _ := ParseBatch(buf[HeaderBytes:])
			var r Record
			for batch.Left() > 0 {
				if err := batch.Next(&r); err != nil {
					b.Fatal(err)
				}
			}
			buf, c, n = buf[:BatchPrefix], Coder{}, 0
		}
		buf = c.Append(buf, &Record{Source: 1, Gen: 1, Seq: uint64(i), Path: 1, Attempt: 1, Body: body})
		n++
	}
}
