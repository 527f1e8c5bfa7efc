// Package post says what the answer of an HTTP endpoint means for the record that was posted to it.
// Roles that work by HTTP and sinks that end there read it alike. It is pure: it posts nothing.
package post

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weir/stream"
)

const (
	// HeaderBytesMax is the most that an answer's header may have, in bytes (FAULTS.md, limits table).
	HeaderBytesMax = 64 << 10
	// AnswerShown is how much of an answer that is no 2xx an error carries, in bytes.
	AnswerShown = 200
	// retryAfterMax is the longest pause that an endpoint may ask for.
	retryAfterMax = time.Hour
	// refusedPause is the shortest one after a refusal: somebody must act.
	refusedPause = 5 * time.Second
)

// refusals are the answers to whoever asks, whatever the record is, and what to look after. A token
// that has expired or a URL with a mistake must not make dead letters of all that comes.
var refusals = map[int]string{
	http.StatusUnauthorized:      "are its credentials right?",
	http.StatusForbidden:         "may they post there?",
	http.StatusNotFound:          "is the url right?",
	http.StatusMethodNotAllowed:  "does the url take POST?",
	http.StatusProxyAuthRequired: "does the proxy know us?",
	http.StatusGone:              "is the url still right?",
}

// Name is what errors call an endpoint: its URL without user, password and query, none of which an
// error may show. A URL that cannot be used is a *stream.ConfigError.
func Name(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" { // the text may hold the password
		return "", &stream.ConfigError{Err: errors.New("http: the URL cannot be read: write it as https://HOST/PATH")}
	}
	return "post " + u.Scheme + "://" + u.Host + u.EscapedPath(), nil
}

// Verdict says what an answer means by its status; start is the beginning of its body. 2xx is nil. 408,
// 425, 429 and 503 are a stream.Retry, after as long as Retry-After says where it does, and so are 401,
// 403, 404, 405, 407 and 410, after 5 s at least; another 4xx is a stream.Poison; a redirect, which would
// lose the body, a *stream.ConfigError. Of the rest the endpoint may be to blame or the record.
func Verdict(resp *http.Response, start []byte, now time.Time) error {
	err := errors.New(resp.Status)
	ask, refused := refusals[resp.StatusCode]
	if refused {
		err = fmt.Errorf("%w (%s)", err, ask)
	}
	if text := strings.Join(strings.Fields(strings.ToValidUTF8(string(start), "?")), " "); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	after := retryAfter(resp.Header.Get("Retry-After"), now)
	switch status := resp.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case status >= 300 && status < 400:
		return &stream.ConfigError{Err: fmt.Errorf("%s: a redirect is not followed: name the address that it leads to", resp.Status)}
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return stream.Retry(after, err)
	case refused:
		return stream.Retry(max(after, refusedPause), err)
	case status >= 400 && status < 500:
		return stream.Poison(err)
	}
	return err
}

// retryAfter reads seconds or a date (RFC 9110 section 10.2.3); 0: neither.
func retryAfter(text string, now time.Time) time.Duration {
	var after time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		after = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(text); err == nil {
		after = date.Sub(now)
	}
	return min(max(after, 0), retryAfterMax)
}
