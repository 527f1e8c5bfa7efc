package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLineWriter(t *testing.T) {
	long := strings.Repeat("x", logLineMax)
	tests := []struct {
		name   string
		writes []string
		want   []string
	}{
		{"nothing", nil, nil},
		{"a line", []string{"a\n"}, []string{"a"}},
		{"a line in parts", []string{"a", "b", "c\nd", "\n"}, []string{"abc", "d"}},
		{"no end", []string{"a\nb"}, []string{"a", "b"}},
		{"empty lines", []string{"\n\n"}, []string{"", ""}},
		{"carriage returns", []string{"a\r\nb\r", "\n"}, []string{"a", "b"}},
		{"too long", []string{long + "yy", "y\nz\n"}, []string{long, "z"}},
		{"too long, no end", []string{long, long, "y"}, []string{long}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := make(chan logLine, 10) // holds all that a case writes
			w := &lineWriter{out: out}
			for _, s := range tt.writes {
				if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
					t.Fatalf("Write(%d bytes) = %d, %v", len(s), n, err)
				}
			}
			w.flush()
			close(out)
			var got []string
			for l := range out {
				got = append(got, l.text)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadHello(t *testing.T) {
	h, err := readHello(strings.NewReader(`{"addr":"127.0.0.1:7"}` + "\nmore"))
	if err != nil || *h != (hello{Addr: "127.0.0.1:7"}) {
		t.Errorf("readHello = %+v, %v", h, err)
	}
	for _, text := range []string{"", "{", `{"addr":"a"}`, "[]\n", "null and more\n", strings.Repeat("x", helloBytesMax) + "\n"} {
		if h, err := readHello(strings.NewReader(text)); err == nil {
			t.Errorf("readHello(%.20q) = %+v, want an error", text, h)
		}
	}
}
