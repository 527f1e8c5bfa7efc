package post

import (
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"weir/stream"
)

// A refusal is of whoever asks, so that no record is to blame, and says what to look after.
func TestVerdict(t *testing.T) {
	now := time.Now()
	for status := 400; status < 500; status++ {
		resp := &http.Response{StatusCode: status, Status: strconv.Itoa(status) + " No", Header: http.Header{"Retry-After": {"9"}}}
		want := 65
		if slices.Contains([]int{401, 403, 404, 405, 407, 408, 410, 425, 429}, status) {
			want = 75
		}
		err := Verdict(resp, nil, now)
		if after, _ := stream.RetryAfter(err); stream.ExitCode(err) != want || want == 75 && after != 9*time.Second {
			t.Errorf("%d: %v (%d), after %v; want %d", status, err, stream.ExitCode(err), after, want)
		}
	}
	if err := Verdict(&http.Response{StatusCode: 101}, nil, now); err == nil || stream.ExitCode(err) != 0 {
		t.Errorf("101: %v (%d), want an attempt", err, stream.ExitCode(err))
	}
	err := Verdict(&http.Response{StatusCode: 404, Status: "404 Not Found"}, []byte("<html>\n  why"), now)
	if after, _ := stream.RetryAfter(err); after != refusedPause || err.Error() != "404 Not Found (is the url right?): <html> why" {
		t.Errorf("%v, after %v", err, after)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "7.5": 0, "soon": 0,
		"4000000000": retryAfterMax, "99999999999999999999": 0,
		"Sun, 22 Nov 2026 08:01:30 GMT": 90 * time.Second, "Sun, 22 Nov 2026 07:00:00 GMT": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
