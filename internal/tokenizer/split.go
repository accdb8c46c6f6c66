package tokenizer

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// class is what GPT-2's pattern tells apart.
type class uint8

const (
	other  class = iota // neither of the following
	letter              // \p{L}
	number              // \p{N}
	space               // White_Space
	multi               // in classes[:256] as asciiClass: not ASCII, look at the character
)

// classes is the class of every character below U+20000, beyond which lie only
// ideographs and private use.
var classes = func() *[0x20000]class {
	table := new([0x20000]class)
	mark := func(set *unicode.RangeTable, c class) {
		for _, r := range set.R16 {
			for x := rune(r.Lo); x <= rune(r.Hi); x += rune(r.Stride) {
				table[x] = c
			}
		}
		for _, r := range set.R32 {
			for x := rune(r.Lo); x <= rune(r.Hi) && int(x) < len(table); x += rune(r.Stride) {
				table[x] = c
			}
		}
	}
	mark(unicode.L, letter)
	mark(unicode.N, number)
	mark(unicode.White_Space, space)
	return table
}()

// asciiClass is the class of each ASCII byte, and multi for the others.
var asciiClass = func() (table [256]class) {
	for b := range table {
		table[b] = multi
		if b < utf8.RuneSelf {
			table[b] = classes[b]
		}
	}
	return table
}()

func classOf(r rune) class {
	switch {
	case int(r) < len(classes):
		return classes[r]
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	}
	return other
}

// classAt is the class and the length in bytes of the character at text[i].
func classAt(text string, i int) (class, int) {
	if c := asciiClass[text[i]]; c != multi {
		return c, 1
	}
	r, n := utf8.DecodeRuneInString(text[i:])
	return classOf(r), n
}

// nextWord returns where the word that begins at text[i] ends, i < len(text).
// It is one match of GPT-2's pattern
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// The look-ahead makes a run of white space before other text give back its
// last character, which a space (U+0020) then spends on joining that text.
func nextWord(text string, i int) int {
	at := i
	switch text[i] {
	case ' ':
		if i+1 < len(text) {
			at = i + 1
		}
	case '\'':
		if end := contraction(text, i); end > 0 {
			return end
		}
	}
	c, n := classAt(text, at)
	if c != space {
		return runEnd(text, at+n, c)
	}
	return spaceEnd(text, i)
}

// runEnd returns where the run of class c that covers text[:i] ends.
func runEnd(text string, i int, c class) int {
	for i < len(text) {
		a := asciiClass[text[i]]
		if a == c {
			i++
			continue
		}
		if a != multi {
			break
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		if classOf(r) != c {
			break
		}
		i += n
	}
	return i
}

// spaceEnd returns where the white space at text[i] ends, less its last
// character where it has several and other text follows.
func spaceEnd(text string, i int) int {
	first, last := i, i
	for i < len(text) {
		c, n := classAt(text, i)
		if c != space {
			if last > first {
				return last
			}
			return i
		}
		last = i
		i += n
	}
	return i
}

// contraction returns the end of 's 't 're 've 'm 'll 'd at text[i], else 0.
func contraction(text string, i int) int {
	rest := text[i+1:]
	if len(rest) == 0 {
		return 0
	}
	switch rest[0] {
	case 's', 't', 'm', 'd':
		return i + 2
	}
	if len(rest) > 1 {
		switch rest[:2] {
		case "re", "ve", "ll":
			return i + 3
		}
	}
	return 0
}

// toNFC brings text to Unicode's normal form C, as the library's NFC
// normalizer does.
func toNFC(text string) string {
	if maybeDenormal(text) && !norm.NFC.IsNormalString(text) {
		return norm.NFC.String(text)
	}
	return text
}

// maybeDenormal is false for text whose characters all lie below U+0300: in
// NFC each of them stands for itself. Their first bytes in UTF-8 are below 0xCC.
func maybeDenormal(text string) bool {
	for i := range len(text) {
		if text[i] >= 0xCC {
			return true
		}
	}
	return false
}

// toUTF8 replaces every byte that is not part of valid UTF-8 by U+FFFD.
func toUTF8(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return string([]rune(text))
}
