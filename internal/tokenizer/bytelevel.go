package tokenizer

import "unicode/utf8"

// byteRune writes bytes as the characters that stand for them in a
// tokenizer.json, as GPT-2's bytes_to_unicode does: printable Latin-1 bytes as
// themselves, the others as U+0100 and up in ascending order.
var byteRune = func() (table [256]rune) {
	next := rune(0x100)
	for b := range table {
		switch {
		case b >= '!' && b <= '~', b >= 0xA1 && b <= 0xAC, b >= 0xAE:
			table[b] = rune(b)
		default:
			table[b] = next
			next++
		}
	}
	return table
}()

// runeByte is the inverse of byteRune; -1 where no byte is written so.
var runeByte = func() (table [0x144]int16) {
	for i := range table {
		table[i] = -1
	}
	for b, r := range byteRune {
		table[r] = int16(b)
	}
	return table
}()

// fromByteLevel turns a token as it is written in the file into its bytes.
func fromByteLevel(token string) (string, bool) {
	raw := make([]byte, 0, len(token))
	for _, r := range token {
		if int(r) >= len(runeByte) || runeByte[r] < 0 {
			return "", false
		}
		raw = append(raw, byte(runeByte[r]))
	}
	return string(raw), true
}

// toByteLevel is the inverse of fromByteLevel.
func toByteLevel(raw string) string {
	token := make([]byte, 0, 2*len(raw))
	for i := range len(raw) {
		token = utf8.AppendRune(token, byteRune[raw[i]])
	}
	return string(token)
}

// inUTF8 says whether a byte can occur in valid UTF-8; 13 of 256 cannot.
func inUTF8(b byte) bool { return b < 0xC0 || b >= 0xC2 && b <= 0xF4 }
