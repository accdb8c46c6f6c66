package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	userAgent    = "mlkv"
	maxRedirects = 10
	maxAnswer    = 256 << 20 // bytes of the list of files
)

// client talks to the hub and to the hosts that it points to.
type client struct {
	http     *http.Client
	endpoint *url.URL
	settings Settings
	attempts int                  // in a row without any progress
	note     func(string, ...any) // tells of troubles
	gate     gate                 // closed while the hub asks for patience
}

func newClient(s Settings, connections, attempts int, note func(string, ...any)) (*client, error) {
	endpoint, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	// One connection a request: parallel ranges are of no use within one.
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.MaxIdleConnsPerHost = connections
	// Compressed bodies have other sizes and cannot be resumed.
	t.DisableCompression = true
	return &client{
		http: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		endpoint: endpoint, settings: s, attempts: attempts, note: note,
	}, nil
}

// request is what is asked for.
type request struct {
	method string
	url    string
	ranges string // value of the header Range, or empty
}

// answer is a response whose body must keep coming: reading it fails with
// errStalled where nothing arrives for the time that the settings allow.
type answer struct {
	*http.Response
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

var errStalled = errors.New("nothing arrived")

func (a *answer) Read(b []byte) (int, error) {
	n, err := a.Body.Read(b)
	if n > 0 {
		a.timer.Reset(a.limit)
	}
	if err != nil && err != io.EOF {
		err = a.explain(err)
	}
	return n, err
}

// explain names a stall and takes addresses, which may hold signatures, out of
// the message.
func (a *answer) explain(err error) error {
	if errors.Is(context.Cause(a.ctx), errStalled) {
		return fmt.Errorf("%w for %s", errStalled, a.limit)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (a *answer) Close() {
	a.timer.Stop()
	a.cancel(nil)
	if a.Response != nil {
		a.Body.Close()
	}
}

// send makes a request and follows redirects. The token goes to the hub itself
// only, whatever a redirect says. A HEAD request stops at the answer that holds
// the file's metadata. The caller closes the answer.
func (c *client) send(ctx context.Context, q request) (*answer, error) {
	a := &answer{limit: c.settings.Timeout}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.timer = time.AfterFunc(a.limit, func() { a.cancel(errStalled) })
	res, err := c.follow(a, q)
	if err != nil {
		a.Close()
		return nil, err
	}
	a.Response = res
	return a, nil
}

func (c *client) follow(a *answer, q request) (*http.Response, error) {
	at, err := url.Parse(q.url)
	if err != nil {
		return nil, err
	}
	for range maxRedirects {
		res, err := c.once(a, q, at)
		if err != nil {
			return nil, err
		}
		a.timer.Reset(a.limit)
		if !isRedirect(res.StatusCode) || q.method == http.MethodHead && res.Header.Get("X-Linked-Etag") != "" {
			return res, nil
		}
		io.CopyN(io.Discard, res.Body, 4096) // so that the connection can be used again
		res.Body.Close()
		next, err := res.Location()
		if err != nil {
			return nil, fmt.Errorf("%s: redirect (%s): %w", at.Host, res.Status, err)
		}
		if next.Scheme != "https" && next.Scheme != at.Scheme {
			return nil, fmt.Errorf("%s: redirect from %s to %s is refused", at.Host, at.Scheme, next.Scheme)
		}
		at = next
	}
	return nil, fmt.Errorf("%s: expected at most %d redirects, found more", at.Host, maxRedirects)
}

func (c *client) once(a *answer, q request, at *url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(a.ctx, q.method, at.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at.Host, a.explain(err))
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if q.ranges != "" {
		req.Header.Set("Range", q.ranges)
	}
	if c.settings.Token != "" && c.isHub(at) {
		req.Header.Set("Authorization", "Bearer "+c.settings.Token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if a.ctx.Err() != nil && !errors.Is(context.Cause(a.ctx), errStalled) {
			return nil, a.ctx.Err()
		}
		return nil, networkError(at.Host, a.explain(err))
	}
	return res, nil
}

// isHub says whether u is on the hub itself: same scheme, host and port.
func (c *client) isHub(u *url.URL) bool {
	return u.Scheme == c.endpoint.Scheme && strings.EqualFold(u.Hostname(), c.endpoint.Hostname()) && port(u) == port(c.endpoint)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// gate holds requests back while the hub asks for patience.
type gate struct {
	mu    sync.Mutex
	until time.Time
}

func (g *gate) close(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := time.Now().Add(d); t.After(g.until) {
		g.until = t
	}
}

// wait returns when the gate is open, or with the error of ctx.
func (g *gate) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		d := time.Until(g.until)
		g.mu.Unlock()
		if d <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
