package cuda

import (
	"mlkv/internal/engine/cuda/gpu"
	"mlkv/internal/op"
)

// chunkBytes bounds the logits that exist at a time.
const chunkBytes = 2 << 30

// chunkRows is how many rows of n the head projects at a time: at most
// chunkBytes of logits, in equal shares of whole tiles of the products where
// there are enough rows.
func chunkRows(n, vocab int, elementSize int64) int {
	const tile = 256 // of the products
	most := max(8, int(chunkBytes/(int64(vocab)*elementSize)))
	if n <= most {
		return n
	}
	least := (n + most - 1) / most
	for chunks := least; chunks <= 2*least; chunks++ {
		if rows := n / chunks; rows*chunks == n && rows%tile == 0 {
			return rows
		}
	}
	return (n/least + 8) / 8 * 8
}

// scoreRows is how many picked positions a scorer projects at a time.
const scoreRows = 512

// columnParts is into how many parts of rows a sum over rows is divided: as many
// blocks of 256 columns as the device holds at a time, four on a multiprocessor,
// so that none has to wait for another.
func columnParts(rows, cols, sms int) int {
	return max(1, min((rows+63)/64, 4*sms/((cols+255)/256)))
}

const (
	sortBlock  = 1024 // positions that one block of the embedding's sort takes
	embedChunk = 32   // sorted positions that one block of its sum takes
)

// leastPartRows is the least number of rows that attention's derivative sums for a
// part of the gradient of the biases.
const leastPartRows = 16

// biasParts is the number of those parts; they do not reach from a sequence into
// the next.
func biasParts(o op.Attention, rows, partRows int) int {
	return rows / o.Length * ((o.Length + partRows - 1) / partRows)
}

// Sizes of kernels/attention_hopper_ordered.cuh.
const (
	orderedRows = 128 // of a tile
	deltaRows   = 64  // of a block that makes delta
)

// ordered reports whether attention's derivative is one kernel that adds dq up in
// global memory in a fixed order, instead of one for dq and one for dk and dv.
func ordered(o op.Attention, s sizes, chip gpu.Info) bool {
	return chip.Major == 9 && s.activation == 2 && o.HeadSize == 64
}

// needScratch gives every operation the matrices that its kernels need while
// they run on a chip.
func needScratch(p *program, s sizes, chip gpu.Info) {
	sms := chip.SMs
	for _, o := range p.ops {
		scratch := func(rows, cols int, e element) {
			o.temp = append(o.temp, newMatrix("scratch", rows, cols, e))
		}
		switch k := o.kind.(type) {
		case normsGrad:
			scratch(2*sms, 5*o.in[0].cols, float)
		case geluGrad:
			if len(o.out) == 2 {
				scratch(columnParts(o.in[0].rows, o.in[0].cols, sms), o.in[0].cols, float)
			}
		case columnSum:
			scratch(columnParts(o.in[0].rows, o.in[0].cols, sms), o.in[0].cols, float)
		case attentionGrad:
			scratch(o.in[0].rows, k.Heads, float)
			if k.bias {
				scratch(biasParts(k.Attention, o.in[0].rows, leastPartRows), o.out[len(o.out)-1].cols, float)
			}
			if ordered(k.Attention, s, chip) {
				tiles := o.in[0].rows / k.Length * k.Heads * ((k.Length + orderedRows - 1) / orderedRows)
				scratch(tiles*orderedRows, k.HeadSize, float) // sums of dq
				scratch(1, tiles, integer)                    // how many terms they have
				if k.Heads > k.KVHeads {
					scratch(sms*4*orderedRows, k.HeadSize, float) // sums of dk and dv between query heads
				}
			}
		case head:
			n, vocab := o.in[0].rows, o.in[1].rows
			scratch(chunkRows(n, vocab, s.activation), vocab, activation)
		case distill: // logits of model and teacher
			n, vocab := o.in[0].rows, o.in[1].rows
			scratch(chunkRows(n, vocab, s.activation), vocab, activation)
			scratch(chunkRows(n, vocab, s.activation), vocab, activation)
		case score:
			scratch(min(o.in[0].rows, scoreRows), o.in[1].rows, float)
		case embeddingGrad:
			n, chunks := o.in[0].cols, (o.in[0].cols+embedChunk-1)/embedChunk
			for range 4 { // keys and positions after each of two passes
				scratch(1, n, integer)
			}
			scratch(256, (n+sortBlock-1)/sortBlock, integer)
			scratch(chunks, o.in[1].cols, float)
			scratch(chunks, o.in[1].cols, float)
		}
	}
}
