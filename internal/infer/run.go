package infer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"mlkv/internal/checkpoint"
	"mlkv/internal/engine"
	"mlkv/internal/engine/device"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// Options of the generate command.
type Options struct {
	Model   string   // checkpoint folder
	Prompts []string // continued each on its own
	Device  device.Options
	Sampling
	MaxTokens int      // to add at most
	Stop      []string // end a continuation before any of these
	Rows      int      // prompts decoded together; 0: 8
	CacheBits int      // of an element of the key/value cache; 0: the device's own
	Echo      bool     // write the prompt before its continuation
	JSON      bool     // write one object a prompt instead of text
}

// Run continues prompts. The text of a single prompt is written as it comes,
// that of several when each is complete, in the prompts' order.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	if err := o.validate(); err != nil {
		return err
	}
	cp, err := checkpoint.Open(o.Model)
	if err != nil {
		return err
	}
	defer cp.Close()
	tok, err := tokenizer.Load(o.Model)
	if err != nil {
		return err
	}
	prompts, err := o.encode(tok, cp.Config().MaxPositions)
	if err != nil {
		return err
	}
	eng, err := device.Open(o.Device)
	if err != nil {
		return err
	}
	defer eng.Close()
	open := func(d engine.DecodeOptions) (engine.Decoder, error) { return eng.Decoder(cp.Config(), cp, d) }
	w := &writer{Options: o, out: s.Out, tokens: prompts}
	_, err = Generate(ctx, open, tok, prompts, GenerateOptions{
		Sampling: o.Sampling, MaxTokens: o.MaxTokens, Stop: o.Stop, EOS: tok.EOS(),
		Window: cp.Config().MaxPositions, Rows: o.Rows, CacheBits: o.CacheBits, Text: w.text, End: w.end,
	})
	return err
}

func (o Options) validate() error {
	if len(o.Prompts) == 0 {
		return ui.Usagef("generate: no prompt; pass --prompt or --prompts")
	}
	if o.MaxTokens < 1 {
		return ui.Usagef("max-tokens: expected 1 or more, found %d", o.MaxTokens)
	}
	if bits := []int{0, 8, 16, 32}; !slices.Contains(bits, o.CacheBits) {
		return ui.Usagef("cache-bits: expected one of %v, found %d", bits, o.CacheBits)
	}
	if err := o.Sampling.Validate(); err != nil {
		return ui.Usagef("%w", err)
	}
	return nil
}

// encode turns the prompts into tokens. An empty prompt is the token that
// separates documents.
func (o Options) encode(tok *tokenizer.Tokenizer, window int) ([][]int32, error) {
	var out [][]int32
	for i, p := range o.Prompts {
		ids := tok.Encode(p)
		if len(ids) == 0 {
			ids = []int32{tok.EOS()}
		}
		if len(ids) >= window {
			return nil, ui.Usagef("prompt %d: %d tokens leave no room in the model's context of %d; shorten it", i+1, len(ids), window)
		}
		out = append(out, ids)
	}
	return out, nil
}

// writer puts completions on a stream.
type writer struct {
	Options
	out    io.Writer
	tokens [][]int32 // of the prompts
	ended  map[int]Completion
	next   int // the first prompt that is not written
	begun  bool
}

// streams reports whether text is written as it comes.
func (w *writer) streams() bool { return len(w.Prompts) == 1 && !w.JSON }

// text writes a piece of a single prompt's continuation.
func (w *writer) text(_ int, piece string) error {
	if !w.streams() {
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	_, err := io.WriteString(w.out, piece)
	return err
}

func (w *writer) begin() error {
	if w.begun || !w.Echo {
		return nil
	}
	w.begun = true
	_, err := io.WriteString(w.out, w.Prompts[0])
	return err
}

// end writes every completion that is complete and whose turn it is.
func (w *writer) end(prompt int, c Completion) error {
	if w.streams() {
		if err := w.begin(); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w.out)
		return err
	}
	if w.ended == nil {
		w.ended = map[int]Completion{}
	}
	w.ended[prompt] = c
	for ; ; w.next++ {
		c, ok := w.ended[w.next]
		if !ok {
			return nil
		}
		delete(w.ended, w.next)
		if err := w.write(w.next, c); err != nil {
			return err
		}
	}
}

// write puts a whole completion on the stream.
func (w *writer) write(prompt int, c Completion) error {
	if !w.JSON {
		text := c.Text
		if w.Echo {
			text = w.Prompts[prompt] + text
		}
		_, err := fmt.Fprintf(w.out, "--- prompt %d\n%s\n", prompt+1, text)
		return err
	}
	enc := json.NewEncoder(w.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		Prompt       string  `json:"prompt"`
		Text         string  `json:"text"`
		End          string  `json:"end"`
		PromptTokens []int32 `json:"prompt_tokens"`
		Tokens       []int32 `json:"tokens"`
	}{w.Prompts[prompt], c.Text, c.Reason, w.tokens[prompt], c.Tokens})
}
