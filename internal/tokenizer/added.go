package tokenizer

import "strings"

// addedTokens finds tokens that are cut out of a text before it is split into
// words: the leftmost, and of those that begin there the longest.
type addedTokens struct {
	// prefix is what all tokens begin with; found with the fast string search.
	prefix string
	nodes  []trieNode // nodes[0] is the root, reached by the empty string
}

type trieNode struct {
	next [256]uint16 // 0: none
	id   int32       // -1: no token ends here
}

func newAddedTokens() *addedTokens { return &addedTokens{} }

// add inserts a token; the first of two equal ones stays.
func (a *addedTokens) add(content string, id uint16) {
	if len(a.nodes) == 0 {
		a.nodes = append(a.nodes, trieNode{id: -1})
		a.prefix = content
	}
	for !strings.HasPrefix(content, a.prefix) {
		a.prefix = a.prefix[:len(a.prefix)-1]
	}
	at := uint16(0)
	for i := range len(content) {
		next := a.nodes[at].next[content[i]]
		if next == 0 {
			next = uint16(len(a.nodes))
			a.nodes = append(a.nodes, trieNode{id: -1})
			a.nodes[at].next[content[i]] = next
		}
		at = next
	}
	if a.nodes[at].id < 0 {
		a.nodes[at].id = int32(id)
	}
}

// find returns the first token in text[from:] as text[start:end] and its id.
// Where there is none, start is -1.
func (a *addedTokens) find(text string, from int) (start, end int, id uint16) {
	if len(a.nodes) == 0 {
		return -1, 0, 0
	}
	for from < len(text) {
		skip := strings.Index(text[from:], a.prefix)
		if skip < 0 {
			break
		}
		from += skip
		if end, id, ok := a.longest(text, from); ok {
			return from, end, id
		}
		from++
	}
	return -1, 0, 0
}

// longest returns the end and id of the longest token that begins at text[i].
func (a *addedTokens) longest(text string, i int) (end int, id uint16, ok bool) {
	at := uint16(0)
	for ; i < len(text); i++ {
		at = a.nodes[at].next[text[i]]
		if at == 0 {
			break
		}
		if a.nodes[at].id >= 0 {
			end, id, ok = i+1, uint16(a.nodes[at].id), true
		}
	}
	return end, id, ok
}
