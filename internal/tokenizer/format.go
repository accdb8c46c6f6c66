package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// file is a tokenizer.json, as far as a GPT-NeoX one differs from another.
type file struct {
	Truncation   json.RawMessage `json:"truncation"`
	AddedTokens  []addedToken    `json:"added_tokens"`
	Normalizer   *component      `json:"normalizer"`
	PreTokenizer *component      `json:"pre_tokenizer"`
	Decoder      *component      `json:"decoder"`
	Model        *bpeModel       `json:"model"`
}

type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// component is a normalizer, pre-tokenizer or decoder.
type component struct {
	Type           string `json:"type"`
	AddPrefixSpace *bool  `json:"add_prefix_space"`
	UseRegex       *bool  `json:"use_regex"`
}

type bpeModel struct {
	Type                    string         `json:"type"`
	Dropout                 *float64       `json:"dropout"`
	ContinuingSubwordPrefix *string        `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string        `json:"end_of_word_suffix"`
	ByteFallback            bool           `json:"byte_fallback"`
	IgnoreMerges            bool           `json:"ignore_merges"`
	Vocab                   map[string]int `json:"vocab"`
	Merges                  []mergePair    `json:"merges"`
}

// mergePair is "a b", or ["a", "b"] in files written since tokenizers 0.20.
type mergePair [2]string

func (p *mergePair) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '[' {
		var parts []string
		if err := json.Unmarshal(data, &parts); err != nil {
			return err
		}
		if len(parts) != 2 {
			return fmt.Errorf("model.merges: expected pairs, found %d parts in %s", len(parts), data)
		}
		p[0], p[1] = parts[0], parts[1]
		return nil
	}
	var joined string
	if err := json.Unmarshal(data, &joined); err != nil {
		return err
	}
	a, b, ok := strings.Cut(joined, " ")
	if !ok || a == "" || b == "" || strings.Contains(b, " ") {
		return fmt.Errorf("model.merges: expected two tokens joined by one space, found %q", joined)
	}
	p[0], p[1] = a, b
	return nil
}

// parseFile decodes tokenizer.json and refuses what would make ids differ from
// those of a GPT-NeoX tokenizer.
func parseFile(data []byte) (*file, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("not a tokenizer.json: %w", err)
	}
	m := f.Model
	if m == nil || m.Type != "BPE" && m.Type != "" {
		found := "none"
		if m != nil {
			found = m.Type
		}
		return nil, fmt.Errorf("model.type: expected BPE, found %s", found)
	}
	switch {
	case len(f.Truncation) > 0 && string(f.Truncation) != "null":
		return nil, fmt.Errorf("truncation: expected null, found %s", f.Truncation)
	case f.Normalizer != nil && f.Normalizer.Type != "NFC":
		return nil, fmt.Errorf("normalizer.type: expected NFC or none, found %s", f.Normalizer.Type)
	case f.PreTokenizer == nil || f.PreTokenizer.Type != "ByteLevel":
		return nil, fmt.Errorf("pre_tokenizer.type: expected ByteLevel, found %s", typeOf(f.PreTokenizer))
	case f.PreTokenizer.AddPrefixSpace == nil || *f.PreTokenizer.AddPrefixSpace:
		return nil, fmt.Errorf("pre_tokenizer.add_prefix_space: expected false")
	case f.PreTokenizer.UseRegex != nil && !*f.PreTokenizer.UseRegex:
		return nil, fmt.Errorf("pre_tokenizer.use_regex: expected true, found false")
	case f.Decoder != nil && f.Decoder.Type != "ByteLevel":
		return nil, fmt.Errorf("decoder.type: expected ByteLevel, found %s", f.Decoder.Type)
	case m.Dropout != nil && *m.Dropout != 0:
		return nil, fmt.Errorf("model.dropout: expected none, found %g", *m.Dropout)
	case m.ContinuingSubwordPrefix != nil && *m.ContinuingSubwordPrefix != "":
		return nil, fmt.Errorf("model.continuing_subword_prefix: expected none, found %q", *m.ContinuingSubwordPrefix)
	case m.EndOfWordSuffix != nil && *m.EndOfWordSuffix != "":
		return nil, fmt.Errorf("model.end_of_word_suffix: expected none, found %q", *m.EndOfWordSuffix)
	case m.ByteFallback:
		return nil, fmt.Errorf("model.byte_fallback: expected false, found true")
	case m.IgnoreMerges:
		return nil, fmt.Errorf("model.ignore_merges: expected false, found true")
	}
	return &f, nil
}

func typeOf(c *component) string {
	if c == nil {
		return "none"
	}
	return c.Type
}

// build turns a decoded file into tables.
func build(f *file) (*Tokenizer, error) {
	t := &Tokenizer{nfc: f.Normalizer != nil, eos: -1}
	if err := t.buildVocab(f); err != nil {
		return nil, err
	}
	if err := t.buildMerges(f.Model); err != nil {
		return nil, err
	}
	return t, t.buildAdded(f.AddedTokens)
}

// buildVocab fills tokens and byteID.
func (t *Tokenizer) buildVocab(f *file) error {
	size := 0
	check := func(token string, id int) error {
		if id < 0 || id > math.MaxUint16 {
			return fmt.Errorf("token %q: expected an id of 0 to %d, found %d", token, math.MaxUint16, id)
		}
		size = max(size, id+1)
		return nil
	}
	added := make(map[string]bool, len(f.AddedTokens))
	for _, a := range f.AddedTokens {
		added[a.Content] = true
		if err := check(a.Content, a.ID); err != nil {
			return fmt.Errorf("added_tokens: %w", err)
		}
	}
	names := make([]string, 0, len(f.Model.Vocab))
	for token, id := range f.Model.Vocab {
		names = append(names, token)
		if err := check(token, id); err != nil {
			return fmt.Errorf("model.vocab: %w", err)
		}
	}
	sort.Strings(names) // errors name the same token every time

	t.tokens = make([]string, size)
	for _, token := range names {
		id := f.Model.Vocab[token]
		raw, ok := fromByteLevel(token)
		if added[token] {
			raw, ok = token, true
		}
		switch {
		case !ok || raw == "":
			return fmt.Errorf("model.vocab: token %q (id %d) is not written in byte-level characters", token, id)
		case t.tokens[id] != "":
			return fmt.Errorf("model.vocab: id %d is given to %q and to %q", id, t.tokens[id], raw)
		}
		t.tokens[id] = raw
	}
	for b := range 256 {
		id, ok := f.Model.Vocab[string(byteRune[b])]
		if !ok && inUTF8(byte(b)) {
			return fmt.Errorf("model.vocab: no token for the byte 0x%02X, written %q", b, byteRune[b])
		}
		t.byteID[b] = uint16(id)
	}
	return nil
}

// buildMerges fills the merge table.
func (t *Tokenizer) buildMerges(m *bpeModel) error {
	if len(m.Merges) > math.MaxUint16 {
		return fmt.Errorf("model.merges: expected at most %d, found %d", math.MaxUint16, len(m.Merges))
	}
	t.merges = newMergeTable(len(m.Merges))
	for rank, pair := range m.Merges {
		a, okA := m.Vocab[pair[0]]
		b, okB := m.Vocab[pair[1]]
		joined, okJ := m.Vocab[pair[0]+pair[1]]
		if !okA || !okB || !okJ {
			return fmt.Errorf("model.merges[%d]: %q + %q: one of the two or their union is not in model.vocab", rank, pair[0], pair[1])
		}
		if !t.merges.add(uint16(a), uint16(b), uint16(rank), uint16(joined)) {
			return fmt.Errorf("model.merges[%d]: %q + %q appears twice", rank, pair[0], pair[1])
		}
	}
	return nil
}

// buildAdded fills the added tokens and finds the one between documents.
func (t *Tokenizer) buildAdded(list []addedToken) error {
	t.raw, t.normal = newAddedTokens(), newAddedTokens()
	for _, a := range list {
		if a.Content == "" {
			return fmt.Errorf("added_tokens: id %d has no content", a.ID)
		}
		if a.SingleWord || a.LStrip || a.RStrip {
			return fmt.Errorf("added_tokens: %q: single_word, lstrip and rstrip are not supported, expected false", a.Content)
		}
		if held := t.tokens[a.ID]; held != "" && held != a.Content {
			return fmt.Errorf("added_tokens: id %d is given to %q and to %q", a.ID, held, a.Content)
		}
		t.tokens[a.ID] = a.Content
		switch {
		case !a.Normalized:
			t.raw.add(a.Content, uint16(a.ID))
		case t.nfc:
			t.normal.add(norm.NFC.String(a.Content), uint16(a.ID))
		default:
			t.normal.add(a.Content, uint16(a.ID))
		}
		if a.Content == EndOfText {
			t.eos = int32(a.ID)
		}
	}
	if t.eos < 0 {
		return fmt.Errorf("added_tokens: expected %s, which stands between documents", EndOfText)
	}
	return nil
}
