package tokenizer

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// Encoder encodes text for one goroutine. It remembers the ids of words it has
// met, in 2 MiB.
type Encoder struct {
	t      *Tokenizer
	merger merger
	cache  []cachedWord
	ids    []uint16
}

const (
	cacheLog   = 15
	cacheBytes = 30 // longest word that is remembered
	cacheIDs   = 16 // most ids of a word that is remembered
)

// cachedWord is one cache line.
type cachedWord struct {
	ids  [cacheIDs]uint16
	word [cacheBytes]byte
	len  uint8
	n    uint8
}

// NewEncoder returns an encoder of its own for a goroutine that encodes much.
func (t *Tokenizer) NewEncoder() *Encoder {
	return &Encoder{t: t, cache: make([]cachedWord, 1<<cacheLog)}
}

// Append appends the ids of text to dst. Bytes that are not UTF-8 count as
// U+FFFD.
func (e *Encoder) Append(dst []uint16, text string) []uint16 {
	text = toUTF8(text)
	from := 0
	for from < len(text) {
		start, end, id := e.t.raw.find(text, from)
		if start < 0 {
			break
		}
		dst = append(e.appendNormal(dst, text[from:start]), id)
		from = end
	}
	return e.appendNormal(dst, text[from:])
}

// appendNormal encodes text that holds no raw added token.
func (e *Encoder) appendNormal(dst []uint16, text string) []uint16 {
	if e.t.nfc {
		text = toNFC(text)
	}
	from := 0
	for from < len(text) {
		start, end, id := e.t.normal.find(text, from)
		if start < 0 {
			break
		}
		dst = append(e.appendWords(dst, text[from:start]), id)
		from = end
	}
	return e.appendWords(dst, text[from:])
}

// appendWords encodes text that holds no added token.
func (e *Encoder) appendWords(dst []uint16, text string) []uint16 {
	for i := 0; i < len(text); {
		end := nextWord(text, i)
		dst = e.appendWord(dst, text[i:end])
		i = end
	}
	return dst
}

// appendWord encodes one word. Two slots, a word's own and its neighbour, are
// searched; a new word takes its own and what was there moves to the neighbour.
func (e *Encoder) appendWord(dst []uint16, word string) []uint16 {
	if len(word) == 1 {
		return append(dst, e.t.byteID[word[0]])
	}
	if len(word) > cacheBytes {
		return e.mergeWord(dst, word)
	}
	home := hashWord(word) >> (64 - cacheLog)
	own, other := &e.cache[home], &e.cache[home^1]
	if own.is(word) {
		return own.append(dst)
	}
	if other.is(word) {
		return other.append(dst)
	}
	from := len(dst)
	dst = e.mergeWord(dst, word)
	if ids := dst[from:]; len(ids) <= cacheIDs {
		*other = *own
		own.len, own.n = uint8(len(word)), uint8(len(ids))
		copy(own.word[:], word)
		copy(own.ids[:], ids)
	}
	return dst
}

func (e *Encoder) mergeWord(dst []uint16, word string) []uint16 {
	from := len(dst)
	for i := range len(word) {
		dst = append(dst, e.t.byteID[word[i]])
	}
	return dst[:from+len(e.merger.merge(&e.t.merges, dst[from:]))]
}

func (c *cachedWord) is(word string) bool {
	return int(c.len) == len(word) && string(c.word[:c.len]) == word
}

func (c *cachedWord) append(dst []uint16) []uint16 {
	if c.n == 1 {
		return append(dst, c.ids[0])
	}
	return append(dst, c.ids[:c.n]...)
}

// hashWord mixes a word of 2 to cacheBytes bytes. The high bits are the good
// ones.
func hashWord(word string) uint64 {
	const k = 0x9E3779B97F4A7C15
	b := unsafe.Slice(unsafe.StringData(word), len(word))
	n := len(b)
	var x, y uint64
	switch {
	case n < 4:
		x = uint64(b[0]) | uint64(b[n/2])<<8 | uint64(b[n-1])<<16
	case n < 8:
		x = uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint32(b[n-4:]))<<32
	default:
		x, y = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[n-8:])
		if n > 16 {
			y ^= bits.RotateLeft64(binary.LittleEndian.Uint64(b[n/2-4:])*k, 29)
		}
	}
	x = (x ^ bits.RotateLeft64(y*k, 32) ^ uint64(n)) * k
	return (x ^ x>>29) * k
}
