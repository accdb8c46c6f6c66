package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"
)

// MinVocab and MaxVocab bound the ids of a trained tokenizer: the two special
// tokens and every byte of UTF-8 need one, and rows on disk hold 16 bits.
const (
	MinVocab = 2 + 243
	MaxVocab = math.MaxUint16 + 1
)

// Train learns a byte-level BPE of vocabSize ids from texts and returns it as a
// tokenizer.json. Ids are given in this order: <|endoftext|>, <|padding|>, any
// further specials, the 243 bytes that occur in UTF-8, then one token a merge.
// Each merge joins the most frequent pair of neighbours within words; of equally
// frequent ones the pair with the lowest ids. The result depends on the texts
// only, not on their order. Fewer ids than vocabSize are used where the texts
// have no pair left that occurs twice. An error of texts ends the training.
func Train(texts iter.Seq2[string, error], vocabSize int, specials ...string) ([]byte, error) {
	specials = append([]string{EndOfText, Padding}, specials...)
	least := len(specials) + len(byteAlphabet())
	if vocabSize < least || vocabSize > MaxVocab {
		return nil, fmt.Errorf("train tokenizer: expected a vocabulary of %d to %d, found %d", least, MaxVocab, vocabSize)
	}
	words, err := countWords(texts, specials)
	if err != nil {
		return nil, err
	}
	t := newTrainer(words, specials)
	for len(t.tokens) < vocabSize && t.mergeBest() {
	}
	return t.file(specials)
}

// byteAlphabet is the bytes that occur in UTF-8, in the order that GPT-2 gives
// them ids: by the character they are written as.
func byteAlphabet() []byte {
	var list []byte
	for b := range 256 {
		if inUTF8(byte(b)) {
			list = append(list, byte(b))
		}
	}
	slices.SortFunc(list, func(a, b byte) int { return cmp.Compare(byteRune[a], byteRune[b]) })
	return list
}

// countWords counts the words of all texts as an Encoder would split them.
func countWords(texts iter.Seq2[string, error], specials []string) (map[string]int, error) {
	cut := newAddedTokens()
	for i, s := range specials {
		cut.add(s, uint16(i))
	}
	counts := map[string]*int{}
	count := func(text string) {
		text = toNFC(text)
		for i := 0; i < len(text); {
			end := nextWord(text, i)
			if n := counts[text[i:end]]; n != nil {
				*n++
			} else {
				one := 1
				counts[string([]byte(text[i:end]))] = &one // a copy: the text itself is not kept
			}
			i = end
		}
	}
	for text, err := range texts {
		if err != nil {
			return nil, fmt.Errorf("train tokenizer: %w", err)
		}
		text = toUTF8(text)
		from := 0
		for {
			start, end, _ := cut.find(text, from)
			if start < 0 {
				break
			}
			count(text[from:start])
			from = end
		}
		count(text[from:])
	}
	words := make(map[string]int, len(counts))
	for w, n := range counts {
		words[w] = *n
	}
	return words, nil
}

// trainer holds the words as ids and, for every pair of neighbouring ids, how
// often it occurs and in which words.
type trainer struct {
	tokens []string // id -> bytes
	merges []mergePair
	words  []trainWord
	pairs  map[uint32]*pairStat
	queue  pairQueue
}

type trainWord struct {
	ids   []uint16
	count int
}

type pairStat struct {
	count int
	words []int32 // words that hold or held the pair; may repeat
}

func newTrainer(counts map[string]int, specials []string) *trainer {
	t := &trainer{tokens: slices.Clone(specials), pairs: map[uint32]*pairStat{}}
	var byteID [256]uint16
	for _, b := range byteAlphabet() {
		byteID[b] = uint16(len(t.tokens))
		t.tokens = append(t.tokens, string([]byte{b}))
	}
	texts := make([]string, 0, len(counts))
	for w := range counts {
		texts = append(texts, w)
	}
	slices.Sort(texts)
	for i, text := range texts {
		ids := make([]uint16, len(text))
		for j := range ids {
			ids[j] = byteID[text[j]]
		}
		t.words = append(t.words, trainWord{ids, counts[text]})
		for j := 0; j+1 < len(ids); j++ {
			t.change(ids[j], ids[j+1], counts[text], int32(i))
		}
	}
	for pair, stat := range t.pairs {
		t.queue.push(queuedPair{stat.count, pair})
	}
	return t
}

// change adds to the count of a pair, which has come into being in a word or
// (count < 0) gone from it.
func (t *trainer) change(a, b uint16, count int, word int32) {
	pair := uint32(a)<<16 | uint32(b)
	stat := t.pairs[pair]
	if stat == nil {
		stat = &pairStat{}
		t.pairs[pair] = stat
	}
	stat.count += count
	if n := len(stat.words); count > 0 && (n == 0 || stat.words[n-1] != word) {
		stat.words = append(stat.words, word)
	}
}

// mergeBest makes a token of the most frequent pair; false says that none
// occurs twice.
func (t *trainer) mergeBest() bool {
	for len(t.queue) > 0 {
		top := t.queue.pop()
		stat := t.pairs[top.pair]
		switch {
		case stat.count != top.count: // changed since it was queued
			if stat.count > 0 {
				t.queue.push(queuedPair{stat.count, top.pair})
			}
		case stat.count < 2:
			return false
		default:
			t.apply(top.pair, stat)
			return true
		}
	}
	return false
}

// apply joins a pair wherever it occurs.
func (t *trainer) apply(pair uint32, stat *pairStat) {
	a, b, joined := uint16(pair>>16), uint16(pair), uint16(len(t.tokens))
	t.tokens = append(t.tokens, t.tokens[a]+t.tokens[b])
	t.merges = append(t.merges, mergePair{toByteLevel(t.tokens[a]), toByteLevel(t.tokens[b])})
	fresh := map[uint32]bool{}
	for _, w := range stat.words {
		t.mergeWord(w, a, b, joined, fresh)
	}
	delete(t.pairs, pair)
	for p := range fresh {
		if s := t.pairs[p]; s != nil && s.count > 0 {
			t.queue.push(queuedPair{s.count, p})
		}
	}
}

// mergeWord joins a and b in one word and counts the pairs that this changes;
// those that may be new are noted in fresh.
func (t *trainer) mergeWord(w int32, a, b, joined uint16, fresh map[uint32]bool) {
	ids, n := t.words[w].ids, t.words[w].count
	out := ids[:0]
	for i := 0; i < len(ids); i++ {
		if ids[i] != a || i+1 >= len(ids) || ids[i+1] != b {
			out = append(out, ids[i])
			continue
		}
		if k := len(out); k > 0 {
			t.change(out[k-1], a, -n, w)
			t.change(out[k-1], joined, n, w)
			fresh[uint32(out[k-1])<<16|uint32(joined)] = true
		}
		if i+2 < len(ids) {
			t.change(b, ids[i+2], -n, w)
			t.change(joined, ids[i+2], n, w)
			fresh[uint32(joined)<<16|uint32(ids[i+2])] = true
		}
		out = append(out, joined)
		i++
	}
	t.words[w].ids = out
}

// file writes the result in the order and form of the Hugging Face library.
func (t *trainer) file(specials []string) ([]byte, error) {
	type object = map[string]any
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	added := make([]addedToken, len(specials))
	for i, s := range specials {
		added[i] = addedToken{ID: i, Content: s, Special: true}
	}
	vocab := orderedVocab{tokens: t.tokens, specials: len(specials)}
	merges := make([]string, len(t.merges))
	for i, m := range t.merges {
		merges[i] = m[0] + " " + m[1]
	}
	type model struct {
		Type                    string       `json:"type"`
		Dropout                 *float64     `json:"dropout"`
		UnkToken                *string      `json:"unk_token"`
		ContinuingSubwordPrefix *string      `json:"continuing_subword_prefix"`
		EndOfWordSuffix         *string      `json:"end_of_word_suffix"`
		FuseUnk                 bool         `json:"fuse_unk"`
		Vocab                   orderedVocab `json:"vocab"`
		Merges                  []string     `json:"merges"`
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(struct {
		Version       string       `json:"version"`
		Truncation    *int         `json:"truncation"`
		Padding       *int         `json:"padding"`
		AddedTokens   []addedToken `json:"added_tokens"`
		Normalizer    object       `json:"normalizer"`
		PreTokenizer  object       `json:"pre_tokenizer"`
		PostProcessor object       `json:"post_processor"`
		Decoder       object       `json:"decoder"`
		Model         model        `json:"model"`
	}{
		Version: "1.0", AddedTokens: added, Normalizer: object{"type": "NFC"},
		PreTokenizer: byteLevel, PostProcessor: byteLevel, Decoder: byteLevel,
		Model: model{Type: "BPE", Vocab: vocab, Merges: merges},
	})
	if err != nil {
		return nil, fmt.Errorf("train tokenizer: %w", err)
	}
	return out.Bytes(), nil
}

// orderedVocab is written as an object of token -> id in the order of ids.
type orderedVocab struct {
	tokens   []string
	specials int // so many are written as they are, the others byte-level
}

func (v orderedVocab) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	names := json.NewEncoder(&b)
	names.SetEscapeHTML(false)
	b.WriteByte('{')
	for id, token := range v.tokens {
		if id >= v.specials {
			token = toByteLevel(token)
		}
		if id > 0 {
			b.WriteByte(',')
		}
		if err := names.Encode(token); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, ":%d", id)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// pairQueue is a heap with the most frequent pair on top, of equals the one
// with the lowest ids.
type pairQueue []queuedPair

type queuedPair struct {
	count int
	pair  uint32
}

func (p queuedPair) before(q queuedPair) bool {
	return p.count > q.count || p.count == q.count && p.pair < q.pair
}

func (q *pairQueue) push(p queuedPair) {
	*q = append(*q, p)
	h := *q
	for i := len(h) - 1; i > 0 && h[i].before(h[(i-1)/2]); i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
}

func (q *pairQueue) pop() queuedPair {
	h := *q
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i, child := 0, 1; child < last; child = 2*i + 1 {
		if child+1 < last && h[child+1].before(h[child]) {
			child++
		}
		if !h[child].before(h[i]) {
			break
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
	*q = h
	return top
}
