// Package tokenizer is the byte-level BPE of GPT-NeoX, read from a Hugging Face
// tokenizer.json.
//
// Text is cut at the added tokens, brought to Unicode NFC, split into words by
// GPT-2's pattern and each word's bytes are merged pair by pair in the order
// that the file ranks its merges. Nothing is added at the ends of a text. The
// ids equal those of the Hugging Face tokenizers library; package comments
// beside each step name what it reproduces.
package tokenizer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"mlkv/internal/ui"
)

// FileName is the name of a tokenizer's file in a checkpoint folder.
const FileName = "tokenizer.json"

// EndOfText is the token between documents, Padding the one behind a short row.
const (
	EndOfText = "<|endoftext|>"
	Padding   = "<|padding|>"
)

// Tokenizer turns text into token ids and back. It does not change after Load
// and is safe for concurrent use.
type Tokenizer struct {
	tokens   []string // id -> bytes; "" where the id is not used
	byteID   [256]uint16
	merges   mergeTable
	raw      *addedTokens // found before normalization
	normal   *addedTokens // found after normalization
	nfc      bool
	eos      int32
	checksum string

	encoders sync.Pool
}

// Load reads tokenizer.json, or the one in a folder. Its errors end the program
// with ui.ExitInput.
func Load(path string) (*Tokenizer, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		path = filepath.Join(path, FileName)
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ui.Inputf("tokenizer: %s does not exist; give a tokenizer.json or a folder that holds one", path)
	}
	if err != nil {
		return nil, ui.Inputf("tokenizer: %w", err)
	}
	t, err := Parse(data)
	if err != nil {
		return nil, ui.Inputf("tokenizer %s: %w", path, err)
	}
	return t, nil
}

// Parse reads the contents of a tokenizer.json.
func Parse(data []byte) (*Tokenizer, error) {
	f, err := parseFile(data)
	if err != nil {
		return nil, err
	}
	t, err := build(f)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	t.checksum = hex.EncodeToString(sum[:])
	t.encoders.New = func() any { return t.NewEncoder() }
	return t, nil
}

// Encode returns the ids of text. Bytes that are not UTF-8 count as U+FFFD.
func (t *Tokenizer) Encode(text string) []int32 {
	e := t.encoders.Get().(*Encoder)
	defer t.encoders.Put(e)
	e.ids = e.Append(e.ids[:0], text)
	ids := make([]int32, len(e.ids))
	for i, id := range e.ids {
		ids[i] = int32(id)
	}
	return ids
}

// AppendEncode appends the ids of text to dst.
func (t *Tokenizer) AppendEncode(dst []uint16, text string) []uint16 {
	e := t.encoders.Get().(*Encoder)
	defer t.encoders.Put(e)
	return e.Append(dst, text)
}

// Decode joins the bytes of ids. Ids that the vocabulary does not have are left
// out. The result can begin or end within a character where ids do.
func (t *Tokenizer) Decode(ids []int32) string {
	var n int
	for _, id := range ids {
		n += len(t.Token(id))
	}
	text := make([]byte, 0, n)
	for _, id := range ids {
		text = append(text, t.Token(id)...)
	}
	return string(text)
}

// Token is the bytes of one id, "" for an id that the vocabulary does not have.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// VocabSize is the highest id + 1.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Checksum is the SHA-256 of tokenizer.json, in hex.
func (t *Tokenizer) Checksum() string { return t.checksum }

// EOS is the id of <|endoftext|>.
func (t *Tokenizer) EOS() int32 { return t.eos }
