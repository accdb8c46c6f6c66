package infer

import (
	"fmt"
	"strings"

	"mlkv/internal/engine"
)

// Tokenizer turns text into the tokens of a model.
type Tokenizer interface {
	Encode(text string) []int32
}

// Encoder turns pairs of context and continuation into scoring requests as
// lm-evaluation-harness 0.4 does (api/model.py, TemplateLM._encode_pair, and
// models/huggingface.py, _loglikelihood_tokens).
type Encoder struct {
	Tokenizer Tokenizer
	// Empty is the token that stands for an empty context.
	Empty int32
	// Window is the number of tokens that the model reads at most.
	Window int
}

// Request asks for the log-likelihood of continuation after context. White
// space at the context's end moves to the continuation; the pair is encoded as
// one text and split after as many tokens as the context has alone. Of a pair
// longer than the window plus one, the first tokens are dropped.
func (e Encoder) Request(context, continuation string) (engine.Request, error) {
	trimmed := strings.TrimRightFunc(context, IsSpace)
	continuation = context[len(trimmed):] + continuation
	tokens, rest := []int32{e.Empty}, []int32(nil)
	if trimmed == "" {
		rest = e.Tokenizer.Encode(continuation)
	} else {
		whole := e.Tokenizer.Encode(trimmed + continuation)
		tokens = e.Tokenizer.Encode(trimmed)
		rest = whole[min(len(tokens), len(whole)):]
	}
	switch {
	case len(rest) == 0:
		return engine.Request{}, fmt.Errorf("continuation %q: expected at least one token of its own after the context, found none", continuation)
	case len(rest) > e.Window:
		return engine.Request{}, fmt.Errorf("continuation %.40q: expected at most %d tokens (the model's context), found %d", continuation, e.Window, len(rest))
	}
	from := len(tokens)
	tokens = append(tokens[:from:from], rest...)
	if cut := len(tokens) - (e.Window + 1); cut > 0 {
		tokens, from = tokens[cut:], from-cut
	}
	return engine.Request{Tokens: tokens, From: from}, nil
}

// Rolling asks for the log-likelihood of every token of a text: the first after
// Empty, the others after as many as fit, in windows that predict a full window
// of tokens each (utils.py, get_rolling_token_windows with a context of 1, and
// make_disjoint_window).
func (e Encoder) Rolling(text string) []engine.Request {
	tokens := e.Tokenizer.Encode(text)
	var out []engine.Request
	for done := 0; done < len(tokens); {
		end := min(len(tokens), done+e.Window)
		first := max(0, end-e.Window-1)
		r := engine.Request{Tokens: tokens[first:end], From: done - first}
		if done == 0 {
			r = engine.Request{Tokens: append([]int32{e.Empty}, tokens[:end]...), From: 1}
		}
		out, done = append(out, r), end
	}
	return out
}

// IsSpace reports whether Python's str.strip removes r: Unicode white space
// and the separators U+001C to U+001F.
func IsSpace(r rune) bool {
	switch {
	case r >= 0x09 && r <= 0x0d, r >= 0x1c && r <= 0x20, r == 0x85, r == 0xa0,
		r == 0x1680, r >= 0x2000 && r <= 0x200a, r == 0x2028, r == 0x2029,
		r == 0x202f, r == 0x205f, r == 0x3000:
		return true
	}
	return false
}
