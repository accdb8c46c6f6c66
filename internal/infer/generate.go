package infer

import (
	"context"
	"fmt"

	"mlkv/internal/engine"
)

// Reasons why a completion ended.
const (
	EndStop    = "stop"    // a stop string
	EndEOS     = "eos"     // the token that ends a document
	EndLength  = "length"  // as many tokens as asked for
	EndContext = "context" // the model's context is full
)

// GenerateOptions fix how prompts are continued as text.
type GenerateOptions struct {
	Sampling
	MaxTokens int
	Stop      []string
	// EOS ends a row and is not part of its text; negative: none does.
	EOS int32
	// Window is the number of tokens that the model reads at most.
	Window int
	// Rows is how many prompts are decoded together; 0 takes 8.
	Rows int
	// CacheBits is the size of a cached element; 0 takes the engine's own.
	CacheBits int
	// Text receives the text of each prompt as it becomes certain; nil: none.
	Text func(prompt int, text string) error
	// End receives each completion when it has ended; nil: none.
	End func(prompt int, c Completion) error
}

// Completion is how one prompt was continued.
type Completion struct {
	Tokens []int32 // without EOS; with the tokens of a stop string
	Text   string
	Reason string
}

// NewDecoder makes a decoder of some capacity.
type NewDecoder func(o engine.DecodeOptions) (engine.Decoder, error)

// Generate continues prompts of tokens in batches and returns a completion for
// each, in the prompts' order.
func Generate(ctx context.Context, open NewDecoder, tok Detokenizer, prompts [][]int32, o GenerateOptions) ([]Completion, error) {
	for i, p := range prompts {
		if len(p) == 0 {
			return nil, fmt.Errorf("prompt %d: expected text, found none", i+1)
		}
		if len(p) >= o.Window {
			return nil, fmt.Errorf("prompt %d: %d tokens leave no room in the model's context of %d", i+1, len(p), o.Window)
		}
	}
	out := make([]Completion, len(prompts))
	dec := sizedDecoder{open: open}
	defer dec.close()
	for first := 0; first < len(prompts); {
		n := o.together(prompts[first:])
		if err := o.run(ctx, &dec, tok, first, prompts[first:first+n], out); err != nil {
			return nil, err
		}
		first += n
	}
	return out, nil
}

// sizedDecoder is one decoder for batches of any size: its weights are loaded
// once.
type sizedDecoder struct {
	open NewDecoder
	dec  engine.Decoder
	o    engine.DecodeOptions
}

// get gives the decoder a capacity.
func (d *sizedDecoder) get(o engine.DecodeOptions) (_ engine.Decoder, err error) {
	switch {
	case d.dec == nil:
		d.dec, err = d.open(o)
	case d.o != o:
		err = d.dec.Resize(o)
	}
	d.o = o
	return d.dec, err
}

func (d *sizedDecoder) close() {
	if d.dec != nil {
		d.dec.Close()
	}
}

// room is how many tokens a prompt can be continued by.
func (o GenerateOptions) room(prompt []int32) int { return min(o.MaxTokens, o.Window-len(prompt)) }

// together is how many of the prompts make one batch: those that end after the same
// number of tokens, since no row of a decoder may outgrow its capacity.
func (o GenerateOptions) together(prompts [][]int32) int {
	rows := o.Rows
	if rows <= 0 {
		rows = 8
	}
	n := 1
	for n < min(rows, len(prompts)) && o.room(prompts[n]) == o.room(prompts[0]) {
		n++
	}
	return n
}

// run continues one batch, whose first prompt has the number first.
func (o GenerateOptions) run(ctx context.Context, sized *sizedDecoder, tok Detokenizer, first int, prompts [][]int32, out []Completion) error {
	room := o.room(prompts[0])
	longest := 0
	b := batch{GenerateOptions: o, first: first, room: room, out: out[first:], streams: make([]textStream, len(prompts))}
	for i, p := range prompts {
		longest = max(longest, len(p))
		b.streams[i] = textStream{detokenizer: tok, stop: o.Stop}
	}
	if room <= 0 {
		return nil
	}
	dec, err := sized.get(engine.DecodeOptions{Rows: len(prompts), MaxSize: longest + room, CacheBits: o.CacheBits})
	if err != nil {
		return err
	}
	return Continue(ctx, dec, prompts, ContinueOptions{Sampling: o.Sampling, MaxTokens: room, FirstRow: first}, b.each)
}

// batch gathers what the rows of a decoder bring forth.
type batch struct {
	GenerateOptions
	first, room int
	streams     []textStream
	out         []Completion
}

// each takes a row's next token; see Each.
func (b *batch) each(row int, token int32) (end bool, err error) {
	if token == b.EOS {
		return true, b.finish(row, EndEOS)
	}
	c := &b.out[row]
	c.Tokens = append(c.Tokens, token)
	text, stopped := b.streams[row].push(token)
	if err := b.emit(row, text); err != nil {
		return true, err
	}
	switch {
	case stopped:
		return true, b.finish(row, EndStop)
	case len(c.Tokens) < b.room:
		return false, nil
	case b.room < b.MaxTokens:
		return true, b.finish(row, EndContext)
	}
	return true, b.finish(row, EndLength)
}

func (b *batch) emit(row int, text string) error {
	b.out[row].Text += text
	if b.Text == nil || text == "" {
		return nil
	}
	return b.Text(b.first+row, text)
}

// finish lets go of the text that was held back and reports the completion.
func (b *batch) finish(row int, reason string) error {
	if reason != EndStop {
		if err := b.emit(row, b.streams[row].end()); err != nil {
			return err
		}
	}
	b.out[row].Reason = reason
	if b.End == nil {
		return nil
	}
	return b.End(b.first+row, b.out[row])
}
