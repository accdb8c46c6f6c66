package infer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"mlkv/internal/engine"
)

// bytesTok makes each byte a token; token 256 ends a document.
type bytesTok struct{}

func (bytesTok) Encode(text string) []int32 {
	var out []int32
	for _, b := range []byte(text) {
		out = append(out, int32(b))
	}
	return out
}

func (bytesTok) Decode(ids []int32) string {
	b := make([]byte, len(ids))
	for i, id := range ids {
		b[i] = byte(id)
	}
	return string(b)
}

// parrot is a decoder whose likeliest next token is that of a fixed text after
// what the row already holds; it checks its capacity as an engine would.
type parrot struct {
	engine.Decoder
	text string
	o    engine.DecodeOptions
	rows [][]int32
}

const parrotVocab = 257

func (p *parrot) logits() []float32 {
	out := make([]float32, len(p.rows)*parrotVocab)
	for r, row := range p.rows {
		next := int32(256)
		if len(row) < len(p.text) {
			next = int32(p.text[len(row)])
		}
		for t := range parrotVocab {
			out[r*parrotVocab+t] = float32((t*31+len(row)*17)%7) / 7
		}
		out[r*parrotVocab+int(next)] = 5
	}
	return out
}

func (p *parrot) Prefill(_ context.Context, prompts [][]int32) ([]float32, error) {
	if len(prompts) != p.o.Rows {
		return nil, fmt.Errorf("%d prompts for %d rows", len(prompts), p.o.Rows)
	}
	p.rows = nil
	for _, r := range prompts {
		p.rows = append(p.rows, slices.Clone(r))
	}
	return p.logits(), nil
}

func (p *parrot) Next(_ context.Context, tokens []int32) ([]float32, error) {
	for r, t := range tokens {
		if p.rows[r] = append(p.rows[r], t); len(p.rows[r]) > p.o.MaxSize {
			return nil, fmt.Errorf("row %d outgrew %d tokens", r, p.o.MaxSize)
		}
	}
	return p.logits(), nil
}

func (p *parrot) Resize(o engine.DecodeOptions) error {
	p.o, p.rows = o, nil
	return nil
}

func (p *parrot) Close() error { return nil }

func opener(text string) NewDecoder {
	return func(o engine.DecodeOptions) (engine.Decoder, error) { return &parrot{text: text, o: o}, nil }
}

func TestGenerateEnds(t *testing.T) {
	const text = "func main() { println(\"grüße, 世界\") } // done"
	for _, c := range []struct {
		name   string
		prompt string
		o      GenerateOptions
		want   string
		reason string
	}{
		{"length", "func", GenerateOptions{MaxTokens: 7, EOS: 256, Window: 100}, " main()", EndLength},
		{"eos", "func", GenerateOptions{MaxTokens: 70, EOS: 256, Window: 100}, text[4:], EndEOS},
		{"stop", "func", GenerateOptions{MaxTokens: 70, EOS: 256, Window: 100, Stop: []string{"done", "}"}}, text[4:strings.Index(text, "}")], EndStop},
		{"context", "func main", GenerateOptions{MaxTokens: 70, EOS: 256, Window: 12}, "() ", EndContext},
		{"a stop string's beginning is let go", "func", GenerateOptions{MaxTokens: 8, EOS: 256, Window: 100, Stop: []string{" {}"}}, " main() ", EndLength},
		{"cut inside a character", "func main() { println(\"gr", GenerateOptions{MaxTokens: 1, EOS: 256, Window: 100}, "\ufffd", EndLength},
	} {
		var streamed strings.Builder
		ended := 0
		c.o.Text = func(_ int, s string) error {
			if !utf8.ValidString(s) || s == "" {
				t.Errorf("%s: piece %q", c.name, s)
			}
			streamed.WriteString(s)
			return nil
		}
		c.o.End = func(_ int, got Completion) error { ended++; return nil }
		out, err := Generate(t.Context(), opener(text), bytesTok{}, [][]int32{bytesTok{}.Encode(c.prompt)}, c.o)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if out[0].Text != c.want || streamed.String() != c.want || out[0].Reason != c.reason || ended != 1 {
			t.Errorf("%s: text %q, streamed %q, reason %s, ended %d times; want %q, %s, once",
				c.name, out[0].Text, streamed.String(), out[0].Reason, ended, c.want, c.reason)
		}
	}
}

// A prompt must be continued alike whatever stands beside it.
func TestGenerateDoesNotDependOnTheBatch(t *testing.T) {
	const text = "for i := range n { sum += i }; return sum"
	var prompts [][]int32
	for _, n := range []int{1, 5, 9, 2, 3, 30, 4, 8} {
		prompts = append(prompts, bytesTok{}.Encode(text[:n]))
	}
	o := GenerateOptions{Sampling: Sampling{Temperature: 1.2, TopP: 0.9, Seed: 3}, MaxTokens: 20, EOS: 256, Window: 40}
	var want []Completion
	for _, rows := range []int{1, 2, 3, 8} {
		o.Rows = rows
		got, err := Generate(t.Context(), opener(text), bytesTok{}, prompts, o)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		for i := range got {
			if got[i].Text != want[i].Text || got[i].Reason != want[i].Reason {
				t.Errorf("%d rows: prompt %d gave %q (%s), alone %q (%s)", rows, i, got[i].Text, got[i].Reason, want[i].Text, want[i].Reason)
			}
		}
	}
}

func TestGenerateRefusesPrompts(t *testing.T) {
	o := GenerateOptions{MaxTokens: 1, Window: 4}
	for _, p := range [][]int32{{}, {1, 2, 3, 4}} {
		if _, err := Generate(t.Context(), opener(""), bytesTok{}, [][]int32{{1}, p}, o); err == nil || !strings.Contains(err.Error(), "prompt 2") {
			t.Errorf("prompt %v: error %v", p, err)
		}
	}
}

// Whatever a model emits, the pieces are valid text, and together they are the
// tokens' text up to the first stop string.
func FuzzTextStream(f *testing.F) {
	f.Add([]byte("plain text. STOP here"), "STOP")
	f.Add([]byte("grüße 世界 🎉🎉"), "🎉")
	f.Add([]byte{0xe4, 0xb8, 0xff, 0xff, 0x80, 'a', 0xf0}, "a")
	f.Add([]byte("aaab"), "aab")
	f.Fuzz(func(t *testing.T, raw []byte, stop string) {
		if !utf8.ValidString(stop) || strings.ContainsRune(stop, utf8.RuneError) {
			t.Skip()
		}
		s := textStream{detokenizer: bytesTok{}, stop: []string{stop}}
		var got strings.Builder
		stopped := false
		for _, b := range raw {
			var piece string
			if piece, stopped = s.push(int32(b)); !utf8.ValidString(piece) {
				t.Fatalf("piece %q", piece)
			}
			got.WriteString(piece)
			if stopped {
				break
			}
		}
		if !stopped {
			got.WriteString(s.end())
		}
		if !utf8.Valid(raw) {
			return // how many replacements stand for broken bytes is left open
		}
		want, _, _ := strings.Cut(string(raw), stop)
		if stop == "" {
			want = string(raw)
		}
		if got.String() != want {
			t.Fatalf("streamed %q, want %q", got.String(), want)
		}
	})
}
