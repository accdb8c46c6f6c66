package hub

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mlkv/internal/ui"
)

// Settings say where the hub and the cache are.
type Settings struct {
	Endpoint string // URL of the hub
	Token    string // empty: none
	Cache    string // folder of models--ORG--NAME
	Offline  bool   // use the cache alone
	// Timeout is how long a connection may deliver nothing.
	Timeout time.Duration

	tokenFrom string // where the token was found, for messages
	partSize  int64  // bytes of a file that one request fetches
	pause     time.Duration
}

const (
	defaultTimeout  = 30 * time.Second
	defaultPartSize = 32 << 20
	defaultPause    = time.Second // before the second attempt
)

// Environment reads the variables of the hub's own tools: HF_ENDPOINT;
// HF_TOKEN, HF_TOKEN_PATH; HF_HUB_CACHE, HF_HOME; HF_HUB_OFFLINE;
// HF_HUB_DOWNLOAD_TIMEOUT. Errors carry ui.ExitUsage.
func Environment(getenv func(string) string) (Settings, error) {
	e := env{getenv}
	home := e.path("HF_HOME", filepath.Join(e.path("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
	s := Settings{
		Endpoint: strings.TrimRight(e.first("HF_ENDPOINT"), "/"),
		Cache:    e.path("HF_HUB_CACHE", e.path("HUGGINGFACE_HUB_CACHE", filepath.Join(home, "hub"))),
		Offline:  e.isTrue("HF_HUB_OFFLINE") || e.isTrue("TRANSFORMERS_OFFLINE"),
		Timeout:  defaultTimeout,
		partSize: defaultPartSize,
		pause:    defaultPause,
	}
	if s.Endpoint == "" {
		s.Endpoint = DefaultEndpoint
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return Settings{}, ui.Usagef("HF_ENDPOINT: expected the address of a hub such as http://localhost:8080, found %q", s.Endpoint)
	}
	if text := e.first("HF_HUB_DOWNLOAD_TIMEOUT"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds <= 0 {
			return Settings{}, ui.Usagef("HF_HUB_DOWNLOAD_TIMEOUT: expected a whole number of seconds, found %q", text)
		}
		s.Timeout = time.Duration(seconds) * time.Second
	}
	if err := s.findToken(e, home); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// findToken takes the token of the environment, or else the one that the hub's
// tools stored at login.
func (s *Settings) findToken(e env, home string) error {
	for _, name := range []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		if s.Token = strings.TrimSpace(e.first(name)); s.Token != "" {
			s.tokenFrom = name
			return s.checkToken()
		}
	}
	if e.isTrue("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
		return nil
	}
	path := e.path("HF_TOKEN_PATH", filepath.Join(home, "token"))
	data, err := os.ReadFile(path)
	if err != nil { // most users have none
		return nil
	}
	s.Token, s.tokenFrom = strings.TrimSpace(string(data)), path
	return s.checkToken()
}

// checkToken refuses what cannot stand in a header. The message does not show
// it.
func (s *Settings) checkToken() error {
	if strings.ContainsFunc(s.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return ui.Usagef("%s: expected a token of printable ASCII characters, found others", s.tokenFrom)
	}
	return nil
}

// env reads variables as Python's os.path.expanduser and expandvars would have
// them.
type env struct{ getenv func(string) string }

func (e env) first(name string) string { return strings.TrimSpace(e.getenv(name)) }

func (e env) path(name, otherwise string) string {
	p := e.first(name)
	if p == "" {
		p = otherwise
	}
	p = os.Expand(p, e.getenv)
	if rest, ok := strings.CutPrefix(p, "~"); ok && (rest == "" || rest[0] == '/') {
		home := e.getenv("HOME")
		if home == "" {
			home, _ = os.UserHomeDir()
		}
		p = home + rest
	}
	return p
}

func (e env) isTrue(name string) bool {
	switch strings.ToUpper(e.first(name)) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}
