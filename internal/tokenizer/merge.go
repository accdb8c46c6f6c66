package tokenizer

import "math/bits"

// mergeTable finds the merge of a pair of ids: an open-addressing table whose
// slots are pair<<32 | rank<<16 | joined id, empty where all ones.
type mergeTable struct {
	slots []uint64
	shift uint
	mask  uint32
}

const (
	emptySlot = ^uint64(0)
	noMerge   = ^uint32(0)
)

// newMergeTable makes room for n merges.
func newMergeTable(n int) mergeTable {
	log := max(4, bits.Len(uint(n))+1)
	m := mergeTable{slots: make([]uint64, 1<<log), shift: uint(32 - log), mask: 1<<log - 1}
	for i := range m.slots {
		m.slots[i] = emptySlot
	}
	return m
}

func (m *mergeTable) home(pair uint32) uint32 {
	return (pair * 0x9E3779B1) >> m.shift & m.mask
}

// add stores a merge; false says that the pair was there already.
func (m *mergeTable) add(a, b, rank, joined uint16) bool {
	pair := uint32(a)<<16 | uint32(b)
	i := m.home(pair)
	for ; m.slots[i] != emptySlot; i = (i + 1) & m.mask {
		if uint32(m.slots[i]>>32) == pair {
			return false
		}
	}
	m.slots[i] = uint64(pair)<<32 | uint64(rank)<<16 | uint64(joined)
	return true
}

// find returns rank<<16 | joined id of a pair, noMerge where it has none.
func (m *mergeTable) find(a, b uint16) uint32 {
	pair := uint32(a)<<16 | uint32(b)
	for i := m.home(pair); ; i = (i + 1) & m.mask {
		slot := m.slots[i]
		if uint32(slot>>32) == pair || slot == emptySlot {
			return uint32(slot)
		}
	}
}

// longWord is the number of bytes from which a heap of pairs is faster than
// looking through all of them for each merge.
const longWord = 64

// merger applies merges to one word at a time; its slices are reused.
type merger struct {
	pairs []uint32 // pairs[i]: the merge of symbol i and its successor
	heap  []uint64 // rank<<32 | position
	next  []int32
	prev  []int32
}

// merge replaces the ids of a word's bytes by those of its tokens, in place,
// always joining the pair of the lowest rank, of equal ones the leftmost.
func (g *merger) merge(m *mergeTable, ids []uint16) []uint16 {
	if len(ids) >= longWord {
		return g.mergeLong(m, ids)
	}
	pairs := g.pairs[:0]
	for i := 0; i+1 < len(ids); i++ {
		pairs = append(pairs, m.find(ids[i], ids[i+1]))
	}
	g.pairs = pairs
	for {
		best, at := noMerge, 0
		for i, p := range pairs {
			if p < best {
				best, at = p, i
			}
		}
		if best == noMerge {
			return ids
		}
		ids[at] = uint16(best)
		copy(ids[at+1:], ids[at+2:])
		ids = ids[:len(ids)-1]
		copy(pairs[at:], pairs[at+1:])
		pairs = pairs[:len(pairs)-1]
		if at < len(pairs) {
			pairs[at] = m.find(ids[at], ids[at+1])
		}
		if at > 0 {
			pairs[at-1] = m.find(ids[at-1], ids[at])
		}
	}
}

// mergeLong is merge over a linked list of symbols with a heap of their pairs.
// A pair that a merge beside it has changed stays in the heap and is passed
// over when its rank no longer fits.
func (g *merger) mergeLong(m *mergeTable, ids []uint16) []uint16 {
	n := len(ids)
	g.next, g.prev, g.pairs, g.heap = g.next[:0], g.prev[:0], g.pairs[:0], g.heap[:0]
	for i := range n {
		g.next = append(g.next, int32(i+1))
		g.prev = append(g.prev, int32(i-1))
		g.pairs = append(g.pairs, noMerge)
	}
	for i := 0; i+1 < n; i++ {
		g.pair(m, ids, i)
	}
	for len(g.heap) > 0 {
		top := g.pop()
		at := int(uint32(top))
		if p := g.pairs[at]; p == noMerge || uint64(p>>16) != top>>32 {
			continue
		}
		gone := int(g.next[at])
		ids[at] = uint16(g.pairs[at])
		g.pairs[gone] = noMerge
		g.next[at] = g.next[gone]
		if int(g.next[at]) < n {
			g.prev[g.next[at]] = int32(at)
		}
		g.pair(m, ids, at)
		if before := g.prev[at]; before >= 0 {
			g.pair(m, ids, int(before))
		}
	}
	out := ids[:0]
	for i := 0; i < n; i = int(g.next[i]) {
		out = append(out, ids[i])
	}
	return out
}

// pair looks up the merge of the symbol at i and its successor and queues it.
func (g *merger) pair(m *mergeTable, ids []uint16, i int) {
	g.pairs[i] = noMerge
	if next := int(g.next[i]); next < len(ids) {
		g.pairs[i] = m.find(ids[i], ids[next])
	}
	if p := g.pairs[i]; p != noMerge {
		g.push(uint64(p>>16)<<32 | uint64(i))
	}
}

func (g *merger) push(x uint64) {
	g.heap = append(g.heap, x)
	h, i := g.heap, len(g.heap)-1
	for i > 0 && h[(i-1)/2] > x {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = x
}

func (g *merger) pop() uint64 {
	top, last := g.heap[0], len(g.heap)-1
	x := g.heap[last]
	g.heap = g.heap[:last]
	h, i := g.heap, 0
	for child := 1; child < last; child = 2*i + 1 {
		if child+1 < last && h[child+1] < h[child] {
			child++
		}
		if h[child] >= x {
			break
		}
		h[i] = h[child]
		i = child
	}
	if last > 0 {
		h[i] = x
	}
	return top
}
