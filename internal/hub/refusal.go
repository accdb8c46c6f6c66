package hub

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"mlkv/internal/ui"
)

// refusal turns a status other than success into an error that says what to
// do. file is empty where the repository itself was asked for.
func (c *client) refusal(a *answer, repo Repo, file string) error {
	says := a.Status
	if message := printable(a.Header.Get("X-Error-Message")); message != "" {
		says += ": " + message
	}
	code := a.Header.Get("X-Error-Code")
	switch status := a.StatusCode; {
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		after := retryAfter(a.Header, time.Now())
		err := fmt.Errorf("%s says %s", a.Request.URL.Host, says)
		if after > 0 {
			err = fmt.Errorf("%w and asks to wait %s", err, ui.FormatDuration(after))
		}
		return passing{err, after}
	case status != http.StatusRequestedRangeNotSatisfiable && !c.isHub(a.Request.URL):
		// The address that the hub gave has ceased to be good.
		return passing{error: fmt.Errorf("%s, to which the hub points, says %s", a.Request.URL.Host, says)}
	case code == "RevisionNotFound":
		return ui.Inputf("expected a branch, tag or commit, but the %s has no revision %q (%s)", repo.Kind.noun(), repo.Revision, says)
	case status == http.StatusNotFound && (file != "" || code == "EntryNotFound"):
		return ui.Inputf("no such file at revision %q (%s)", repo.Revision, says)
	case status == http.StatusNotFound:
		return ui.Inputf("no such %s, or none that may be seen, or no revision %q (%s)%s", repo.Kind.noun(), repo.Revision, says, c.tokenHint())
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ui.Inputf("access refused (%s)%s", says, c.accessHint(repo, code))
	case status == http.StatusRequestedRangeNotSatisfiable:
		return ui.Inputf("size: the hub has fewer bytes than it announced (%s)", says)
	}
	return fmt.Errorf("%s: expected the content, found %s", a.Request.URL.Host, says)
}

// accessHint says how to be let in.
func (c *client) accessHint(repo Repo, code string) string {
	switch {
	case c.settings.Token == "":
		return "; the " + repo.Kind.noun() + " is gated or private, or there is none of that name: " +
			"set HF_TOKEN to an access token of your account (or store one with the hub's login), and accept the conditions on the " + repo.Kind.noun() + "'s page if it has any"
	case code == "GatedRepo":
		return "; the token of " + c.settings.tokenFrom + " belongs to an account that has not been granted access: accept the conditions on the " + repo.Kind.noun() + "'s page, then run this again"
	}
	return "; the token of " + c.settings.tokenFrom + " does not allow it: check that it is valid, may read this " + repo.Kind.noun() + ", and that the name is right"
}

func (c *client) tokenHint() string {
	if c.settings.Token == "" {
		return "; a private one needs HF_TOKEN"
	}
	return ""
}

func (k Kind) noun() string {
	if k == DataSet {
		return "data set"
	}
	return "model"
}

// printable keeps a server's words from disturbing a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	return strings.TrimSpace(s)
}
