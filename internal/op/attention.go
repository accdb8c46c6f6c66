package op

import (
	"math"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
	"mlkv/internal/blas"
)

// Attention is causal softmax attention (arXiv 1706.03762) in which groups of
// Heads/KVHeads query heads share a key/value head: (q [N, A*D], k [N, G*D],
// v [N, G*D]) -> packed output [N, A*D] and, for the backward pass, the
// logarithm of every softmax's denominator [R, A, T]. Keys and values may
// belong to an earlier layer; queries and keys come rotated or not, as the
// graph says.
type Attention struct {
	Length, Heads, KVHeads, HeadSize int
	// KeyOwner and ValueOwner are the layers that the keys and the values belong
	// to: the places of the cache that incremental decoding reads.
	KeyOwner, ValueOwner int
}

func (o Attention) OutShape(in []tensor.Shape) tensor.Shape {
	kv := o.KVHeads * o.HeadSize
	fits(len(in) == 3 && len(in[0]) == 2 && in[0][0]%o.Length == 0 && in[0][1] == o.Heads*o.HeadSize &&
		in[1].Eq(tensor.Shape{in[0][0], kv}) && in[2].Eq(in[1]) && o.Heads%o.KVHeads == 0, o, in)
	return tensor.Shape{in[0][0] * o.Heads * (o.HeadSize + 1)}
}

// Attend applies Attention and returns its output [N, A*D].
func Attend(o Attention, q, k, v *gorgonia.Node) *gorgonia.Node {
	return Apply(View{Main: true, Shape: q.Shape().Clone()}, Apply(o, q, k, v))
}

func (o Attention) Run(out Array, in []Array) {
	run(o, out, in, attention[float32], attention[float64])
}

// queryBlock is how many queries are scored against all their keys at once.
const queryBlock = 128

// head cuts the channels of one head out of rows [lo, hi) of a matrix of heads.
func head[T blas.Float](x []T, width, headSize, h, lo, hi int) blas.Matrix[T] {
	return blas.Matrix[T]{Rows: hi - lo, Cols: headSize, Stride: width, Data: x[lo*width+h*headSize:]}
}

func (o Attention) scale() float64 { return 1 / math.Sqrt(float64(o.HeadSize)) }

func attention[T blas.Float](o Attention, out []T, a args[T]) {
	n, t, d := a.Shape[0][0], o.Length, o.HeadSize
	qw, kw, group := o.Heads*d, o.KVHeads*d, o.Heads/o.KVHeads
	y, lse := out[:n*qw], out[n*qw:]
	blocks := (t + queryBlock - 1) / queryBlock
	blas.Parallel(n/t*o.Heads*blocks, func(i int) {
		// The last block of a row is the longest: it goes first.
		r, h, b := i/(o.Heads*blocks), i/blocks%o.Heads, blocks-1-i%blocks
		lo, hi := b*queryBlock, min(t, (b+1)*queryBlock)
		first := r * t
		q := head(a.F[0], qw, d, h, first+lo, first+hi)
		k := head(a.F[1], kw, d, h/group, first, first+hi)
		v := head(a.F[2], kw, d, h/group, first, first+hi)
		attendBlock(o, head(y, qw, d, h, first+lo, first+hi), q, k, v, lo, lse[(r*o.Heads+h)*t+lo:])
	})
}

// attendBlock attends from a block of queries of one head, the first of which
// stands at position from, to keys that end with the block's last: y, q
// [B, D], k and v [from+B, D]. lse, unless nil, receives the logarithms of the
// denominators.
func attendBlock[T blas.Float](o Attention, y, q, k, v blas.Matrix[T], from int, lse []T) {
	n := k.Rows
	buf := scratch[T](q.Rows * n)
	defer release(buf)
	s := blas.Dense(q.Rows, n, buf)
	blas.Serial(blas.AsIs, blas.Transposed, T(o.scale()), q, k, 0, s)
	inv := scratch[T](q.Rows)
	defer release(inv)
	for j := range q.Rows {
		row, seen := buf[j*n:(j+1)*n], from+j+1
		m := maxOf(row[:seen])
		l := expSum(row[:seen], row[:seen], m)
		clear(row[seen:])
		inv[j] = 1 / l
		if lse != nil {
			lse[j] = m + T(math.Log(float64(l)))
		}
	}
	blas.Serial(blas.AsIs, blas.AsIs, 1, s, v, 0, y)
	for j := range q.Rows {
		scale(y.Data[j*y.Stride:j*y.Stride+y.Cols], inv[j])
	}
}

func (o Attention) Differentiates(int) []bool { return all(3) }

func (o Attention) Grad(in []*gorgonia.Node, out, grad *gorgonia.Node) []*gorgonia.Node {
	pack := Apply(AttentionGrad{o}, in[0], in[1], in[2], out, grad)
	n, qw, kw := in[0].Shape()[0], in[0].Shape()[1], in[1].Shape()[1]
	return []*gorgonia.Node{Part(pack, 0, n, qw), Part(pack, n*qw, n, kw), Part(pack, n*(qw+kw), n, kw)}
}

// AttentionGrad is the derivative of Attention: (q, k, v, the forward pack,
// dy [N, A*D]) -> packed dq [N, A*D], dk [N, G*D], dv [N, G*D].
type AttentionGrad struct{ Attention }

func (o AttentionGrad) OutShape(in []tensor.Shape) tensor.Shape {
	fits(len(in) == 5 && in[4].Eq(in[0]), o, in)
	return tensor.Shape{Size(in[0]) + Size(in[1]) + Size(in[2])}
}

func (o AttentionGrad) Run(out Array, in []Array) {
	run(o, out, in, attentionGrad[float32], attentionGrad[float64])
}

// attentionGrad works head by head. Where query heads share a key/value head,
// each leaves its terms of dk and dv aside, and they are added in order
// afterwards.
func attentionGrad[T blas.Float](o AttentionGrad, out []T, a args[T]) {
	n, t, d := a.Shape[0][0], o.Length, o.HeadSize
	qw, kw, group := o.Heads*d, o.KVHeads*d, o.Heads/o.KVHeads
	dq, dk, dv := out[:n*qw], out[n*qw:n*(qw+kw)], out[n*(qw+kw):]
	hk, hv := dk, dv
	if group > 1 {
		hk, hv = scratch[T](n*qw), scratch[T](n*qw)
		defer release(hk)
		defer release(hv)
	}
	blas.Parallel(n/t*o.Heads, func(i int) { headGrad(o, a, i/o.Heads, i%o.Heads, dq, hk, hv) })
	if group == 1 {
		return
	}
	blas.Chunks(n, 64, func(lo, hi int) {
		for row := lo; row < hi; row++ {
			for h := range o.Heads {
				to, from := row*kw+h/group*d, row*qw+h*d
				if h%group == 0 {
					copy(dk[to:to+d], hk[from:])
					copy(dv[to:to+d], hv[from:])
					continue
				}
				axpy(dk[to:to+d], 1, hk[from:from+d])
				axpy(dv[to:to+d], 1, hv[from:from+d])
			}
		}
	})
}

// headGrad writes dq of one query head of one row, and that head's terms of dk
// and dv, which stand in matrices as wide as dq if heads share keys.
func headGrad[T blas.Float](o AttentionGrad, a args[T], r, h int, dq, dk, dv []T) {
	n, t, d := a.Shape[0][0], o.Length, o.HeadSize
	qw, kw, group := o.Heads*d, o.KVHeads*d, o.Heads/o.KVHeads
	y, lse := a.F[3][:n*qw], a.F[3][n*qw+(r*o.Heads+h)*t:]
	first := r * t
	for j := first; j < first+t; j++ {
		clear(dk[j*qw+h*d : j*qw+(h+1)*d])
		clear(dv[j*qw+h*d : j*qw+(h+1)*d])
	}
	width := min(t, queryBlock) * t
	buf := scratch[T](2 * width)
	defer release(buf)
	for lo := 0; lo < t; lo += queryBlock {
		hi := min(t, lo+queryBlock)
		q, dy := head(a.F[0], qw, d, h, first+lo, first+hi), head(a.F[4], qw, d, h, first+lo, first+hi)
		k, v := head(a.F[1], kw, d, h/group, first, first+hi), head(a.F[2], kw, d, h/group, first, first+hi)
		p, dp := blas.Dense(hi-lo, hi, buf[:width]), blas.Dense(hi-lo, hi, buf[width:])
		blas.Serial(blas.AsIs, blas.Transposed, T(o.scale()), q, k, 0, p)
		blas.Serial(blas.AsIs, blas.Transposed, 1, dy, v, 0, dp)
		for j := range hi - lo {
			seen, at := lo+j+1, (first+lo+j)*qw+h*d
			prow, dprow := p.Data[j*hi:(j+1)*hi], dp.Data[j*hi:(j+1)*hi]
			expSum(prow[:seen], prow[:seen], lse[lo+j])
			delta := dot(dy.Data[j*qw:j*qw+d], y[at:at+d])
			softmaxGrad(dprow[:seen], prow[:seen], delta, T(o.scale()))
			clear(prow[seen:])
			clear(dprow[seen:])
		}
		blas.Serial(blas.AsIs, blas.AsIs, 1, dp, k, 0, head(dq, qw, d, h, first+lo, first+hi))
		blas.Serial(blas.Transposed, blas.AsIs, 1, dp, q, 1, head(dk, qw, d, h, first, first+hi))
		blas.Serial(blas.Transposed, blas.AsIs, 1, p, dy, 1, head(dv, qw, d, h, first, first+hi))
	}
}
