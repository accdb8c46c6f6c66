package infer

import (
	"slices"
	"strings"
	"testing"
)

// words gives each word with the space before it one token, and each further
// white space one, as a byte-level BPE does in miniature.
type words map[string]int32

func (w words) Encode(text string) []int32 {
	var out []int32
	for len(text) > 0 {
		n := strings.IndexAny(text[1:], " \n") + 1
		if n == 0 {
			n = len(text)
		}
		if _, ok := w[text[:n]]; !ok {
			w[text[:n]] = int32(len(w) + 1)
		}
		out, text = append(out, w[text[:n]]), text[n:]
	}
	return out
}

func (w words) text(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		for s, i := range w {
			if i == id {
				b.WriteString(s)
			}
		}
	}
	return b.String()
}

func TestRequest(t *testing.T) {
	for _, c := range []struct {
		name, context, continuation string
		window                      int
		before, scored              string
	}{
		{"plain", "one two", " three four", 10, "one two", " three four"},
		{"space moves", "one two ", "three", 10, "one two", " three"},
		{"any white space moves", "one two \n\u00a0\x1f", "three", 10, "one two", " \n\u00a0\x1fthree"},
		{"empty context", "", "one two", 10, "", "one two"},
		{"blank context", " \n", "one", 10, "", " \none"},
		{"merged at the border", "one", "two", 10, "one", ""},
		{"window fits exactly", "a b c d", " e", 4, "a b c d", " e"},
		{"cut on the left", "a b c d e", " f", 4, " b c d e", " f"},
		{"continuation fills the window", "a b", " c d e", 3, " b", " c d e"},
		{"continuation too long", "a b", " c d e f", 3, "", ""},
	} {
		w := words{}
		r, err := Encoder{Tokenizer: w, Empty: 0, Window: c.window}.Request(c.context, c.continuation)
		if c.scored == "" {
			if err == nil {
				t.Errorf("%s: accepted as %v", c.name, r)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := w.text(r.Tokens[:r.From]); got != c.before {
			t.Errorf("%s: context %q, want %q", c.name, got, c.before)
		}
		if got := w.text(r.Tokens[r.From:]); got != c.scored {
			t.Errorf("%s: scored %q, want %q", c.name, got, c.scored)
		}
		if c.before == "" && !slices.Equal(r.Tokens[:r.From], []int32{0}) {
			t.Errorf("%s: context %v, want token 0", c.name, r.Tokens[:r.From])
		}
		if len(r.Tokens) > c.window+1 {
			t.Errorf("%s: %d tokens in a window of %d", c.name, len(r.Tokens), c.window)
		}
	}
}
