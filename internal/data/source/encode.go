package source

import (
	"errors"
	"io"
	"iter"
	"strings"
)

// Encoded reads the input's documents, each as a whole and in tokens: those that
// it holds, or what encode makes of its text. Files of a tree that hold no text
// are passed over, as mlkv prepare does. The tokens are valid until the iteration
// goes on.
func (in Input) Encoded(encode func(text string) []int32) iter.Seq2[[]int32, error] {
	return func(yield func([]int32, error) bool) {
		src, err := in.Open()
		if err != nil {
			yield(nil, err)
			return
		}
		defer src.Close()
		var text strings.Builder
		var tokens []int32
		for {
			block, err := src.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for d, err := range block.Documents() {
				if skipped := (*Skipped)(nil); errors.As(err, &skipped) {
					continue
				}
				if err != nil {
					yield(nil, err)
					return
				}
				for _, t := range d.Tokens {
					tokens = append(tokens, int32(t))
				}
				if text.WriteString(d.Text); d.More {
					continue
				}
				tokens = append(tokens, encode(text.String())...)
				if !yield(tokens, nil) {
					return
				}
				text.Reset()
				tokens = tokens[:0]
			}
		}
	}
}
