package infer

import (
	"strings"
	"unicode/utf8"
)

// Detokenizer turns tokens back into text. The bytes of a run of tokens are
// those of its tokens in a row.
type Detokenizer interface {
	Decode(ids []int32) string
}

// maxPending bounds how many tokens may wait for the end of a character, since
// a model may emit bytes that no others complete.
const maxPending = 16

// textStream turns the tokens of one row into text that may be shown at once:
// it never cuts a character, and holds back what may begin a stop string.
type textStream struct {
	detokenizer Detokenizer
	stop        []string
	pending     []int32 // tokens whose bytes end inside a character
	held        string  // text that may begin a stop string
}

// push adds a token and returns the text that is now certain, and whether a
// stop string ended it. The stop string is not part of the text.
func (t *textStream) push(token int32) (text string, stopped bool) {
	t.pending = append(t.pending, token)
	s := t.detokenizer.Decode(t.pending)
	if incomplete(s) && len(t.pending) < maxPending {
		return "", false
	}
	t.pending = t.pending[:0]
	return t.release(s)
}

// end returns what is still held back when no token follows.
func (t *textStream) end() string {
	rest := ""
	if len(t.pending) > 0 {
		rest = t.detokenizer.Decode(t.pending)
		t.pending = t.pending[:0]
	}
	text, stopped := t.release(rest)
	if !stopped {
		text += t.held
	}
	t.held = ""
	return text
}

// release appends text to what is held back and splits off what is certain.
func (t *textStream) release(text string) (certain string, stopped bool) {
	t.held += strings.ToValidUTF8(text, string(utf8.RuneError))
	at := -1
	for _, s := range t.stop {
		if i := strings.Index(t.held, s); s != "" && i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		certain, t.held = t.held[:at], ""
		return certain, true
	}
	keep := 0
	for _, s := range t.stop {
		keep = max(keep, overlap(t.held, s))
	}
	cut := len(t.held) - keep
	certain, t.held = t.held[:cut], t.held[cut:]
	return certain, false
}

// overlap is the length of the longest end of text that begins stop without
// being all of it.
func overlap(text, stop string) int {
	for n := min(len(text), len(stop)-1); n > 0; n-- {
		if strings.HasSuffix(text, stop[:n]) {
			return n
		}
	}
	return 0
}

// incomplete reports whether s ends inside a character: in bytes that further
// ones may complete, or in the replacement that a detokenizer put for them.
func incomplete(s string) bool {
	if strings.HasSuffix(s, string(utf8.RuneError)) {
		return true
	}
	for n := 1; n <= min(len(s), utf8.UTFMax-1); n++ {
		if b := s[len(s)-n]; utf8.RuneStart(b) {
			return b >= utf8.RuneSelf && !utf8.FullRuneInString(s[len(s)-n:])
		}
	}
	return false
}
