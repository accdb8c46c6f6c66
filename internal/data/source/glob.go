package source

import (
	"fmt"
	"path"
	"strings"
)

// matcher says whether a slash-separated path is wanted: it matches one of the
// patterns and none of those that begin with "!". In a pattern "**" stands for
// any number of folders, the rest is as in path.Match.
type matcher struct {
	want, refuse [][]string
}

func newMatcher(globs []string) (*matcher, error) {
	m := &matcher{}
	for _, g := range globs {
		pattern, refuse := strings.CutPrefix(g, "!")
		parts := strings.Split(pattern, "/")
		for _, p := range parts {
			if _, err := path.Match(p, ""); err != nil || p == "" {
				return nil, fmt.Errorf("glob %q: expected a pattern such as **/*.go", g)
			}
		}
		if refuse {
			m.refuse = append(m.refuse, parts)
		} else {
			m.want = append(m.want, parts)
		}
	}
	return m, nil
}

func (m *matcher) match(name string) bool {
	parts := strings.Split(name, "/")
	for _, pattern := range m.refuse {
		if matchParts(pattern, parts) {
			return false
		}
	}
	for _, pattern := range m.want {
		if matchParts(pattern, parts) {
			return true
		}
	}
	return len(m.want) == 0
}

func matchParts(pattern, parts []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for skip := 0; skip <= len(parts); skip++ {
				if matchParts(pattern[1:], parts[skip:]) {
					return true
				}
			}
			return false
		}
		if len(parts) == 0 {
			return false
		}
		if ok, _ := path.Match(pattern[0], parts[0]); !ok {
			return false
		}
		pattern, parts = pattern[1:], parts[1:]
	}
	return len(parts) == 0
}
