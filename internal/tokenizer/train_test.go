package tokenizer

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestTrainIsDeterministic(t *testing.T) {
	a, err := Train(texts("one two three two one", "naïve  \n\tx", "one"), 280)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Train(texts("one", "naïve  \n\tx", "one two three two one"), 280)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the order of texts changes the result")
	}
}

// TestTrainCounts recounts every pair from scratch before each merge.
func TestTrainCounts(t *testing.T) {
	text := strings.Repeat("aaaa aaab abab banana bandana  can't ", 5) + "xyxyxyx yxy"
	words, err := countWords(texts(text), []string{EndOfText, Padding})
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrainer(words, []string{EndOfText, Padding})
	for merges := 0; ; merges++ {
		counts := map[uint32]int{}
		for _, w := range tr.words {
			for i := 0; i+1 < len(w.ids); i++ {
				counts[uint32(w.ids[i])<<16|uint32(w.ids[i+1])] += w.count
			}
		}
		for pair, n := range counts {
			if tr.pairs[pair] == nil || tr.pairs[pair].count != n {
				t.Fatalf("after %d merges: pair %q %q counted wrong, want %d", merges, tr.tokens[pair>>16], tr.tokens[pair&0xffff], n)
			}
		}
		var best queuedPair
		for pair, n := range counts {
			if p := (queuedPair{n, pair}); p.before(best) {
				best = p
			}
		}
		if !tr.mergeBest() {
			if best.count >= 2 {
				t.Fatalf("stopped after %d merges with a pair that occurs %d times", merges, best.count)
			}
			return
		}
		want := tr.tokens[best.pair>>16] + tr.tokens[best.pair&0xffff]
		if got := tr.tokens[len(tr.tokens)-1]; got != want {
			t.Fatalf("merge %d made %q, want %q", merges, got, want)
		}
	}
}

func TestTrainReadsBack(t *testing.T) {
	data, err := Train(texts(strings.Repeat("hello world, hello there\n", 9)), 300, "<|user|>")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("<|endoftext|><|padding|><|user|>"); !slices.Equal(got, []int32{0, 1, 2}) {
		t.Errorf("specials: %v, want [0 1 2]", got)
	}
	if got := tok.Encode(" hello"); len(got) != 1 {
		t.Errorf("a frequent word takes %d tokens, want 1", len(got))
	}
	if got := tok.VocabSize(); got > 300 {
		t.Errorf("VocabSize %d, want at most 300", got)
	}
}

func TestTrainErrors(t *testing.T) {
	if _, err := Train(texts("a"), 100); err == nil || !strings.Contains(err.Error(), "245") {
		t.Errorf("vocabulary too small: %v, want one that names the least, 245", err)
	}
	fail := errors.New("unreadable")
	_, err := Train(func(yield func(string, error) bool) { yield("", fail) }, 300)
	if !errors.Is(err, fail) {
		t.Errorf("got %v, want the error of the texts", err)
	}
}
