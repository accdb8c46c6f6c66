package infer

import (
	"strings"
	"unicode/utf8"
)

// Detokenizer turns tokens back into text. The bytes of a run of tokens are
// those of its tokens in a row, so one token may end inside a character.
type Detokenizer interface {
	Decode(ids []int32) string
}

// textStream turns the tokens of one row into text that may be shown at once:
// it never cuts a character, and holds back what may begin a stop string.
type textStream struct {
	detokenizer Detokenizer
	stop        []string
	partial     string // the first bytes of a character
	held        string // text that may begin a stop string
}

// push adds a token and returns the text that is now certain, and whether a
// stop string ended it. The stop string is not part of the text.
func (t *textStream) push(token int32) (text string, stopped bool) {
	s := t.partial + t.detokenizer.Decode([]int32{token})
	cut := len(s) - partialTail(s)
	t.partial = s[cut:]
	return t.release(s[:cut])
}

// end returns what is still held back when no token follows.
func (t *textStream) end() string {
	text, stopped := t.release(t.partial)
	if !stopped {
		text += t.held
	}
	t.partial, t.held = "", ""
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

// partialTail is the number of bytes at the end of s that begin a character
// and need more to complete it.
func partialTail(s string) int {
	for n := 1; n <= min(len(s), utf8.UTFMax-1); n++ {
		if tail := s[len(s)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRuneInString(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
