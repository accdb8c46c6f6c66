package cuda

import (
	"slices"

	"mlkv/internal/model"
)

// alignment of every place, in bytes: what the device's allocator gives.
const alignment = 256

// sizes are the bytes of an element of each type.
type sizes struct{ activation int64 }

func (s sizes) of(e element) int64 {
	if e == activation {
		return s.activation
	}
	return 4
}

func (s sizes) bytes(m *matrix) int64 {
	return (int64(m.rows)*int64(m.stride)*s.of(m.elem) + alignment - 1) / alignment * alignment
}

// arena says where every transient matrix of a program lies, in bytes.
type arena struct {
	offset map[*matrix]int64 // of roots
	size   int64
}

// life is a matrix that needs memory from one operation to another, both
// included.
type life struct {
	root        *matrix
	size        int64
	from, until int
	offset      int64
}

// place gives every transient matrix memory for as long as it is needed.
func place(p *program, s sizes) *arena {
	byRoot := map[*matrix]*life{}
	var lives []*life
	touch := func(m *matrix, i int) {
		root, _ := m.root()
		if root.role != transient {
			return
		}
		l := byRoot[root]
		if l == nil {
			l = &life{root: root, size: s.bytes(root), from: i}
			byRoot[root] = l
			lives = append(lives, l)
		}
		l.until = i
	}
	for i, o := range p.ops {
		for _, list := range [][]*matrix{o.in, o.out, o.temp} {
			for _, m := range list {
				touch(m, i)
			}
		}
	}
	for _, m := range p.results() {
		touch(m, len(p.ops))
	}
	a := &arena{offset: map[*matrix]int64{}, size: assign(lives)}
	for _, l := range lives {
		a.offset[l.root] = l.offset
	}
	return a
}

// assign gives every life the lowest offset at which it meets no other one of
// its time, largest first, and returns the size of the whole.
func assign(lives []*life) int64 {
	bySize := slices.Clone(lives)
	slices.SortStableFunc(bySize, func(a, b *life) int { return int(b.size - a.size) })
	var placed []*life // by offset
	total := int64(0)
	for _, l := range bySize {
		for _, other := range placed {
			if other.until < l.from || l.until < other.from {
				continue
			}
			if l.offset+l.size <= other.offset {
				break
			}
			l.offset = max(l.offset, other.offset+other.size)
		}
		at, _ := slices.BinarySearchFunc(placed, l, func(a, b *life) int { return int(a.offset - b.offset) })
		placed = slices.Insert(placed, at, l)
		total = max(total, l.offset+l.size)
	}
	return total
}

// params is the order of a model's parameters in one array. Master weights,
// their copies in the type of activations, gradients and both moments are
// arrays of this order, so that one kernel can walk over all of them.
type params struct {
	offset map[string]int // in elements
	size   int            // elements, gaps included
	list   []model.Param
	at     []int // offset of list[i]
	// spans are the elements from each parameter on that kernels which walk over all
	// of them take as its own: where several lie side by side, the first one's are
	// all, and the others have none.
	spans map[string]int
	pitch map[string]int // elements from a row to the next, of those that lie side by side
}

// paramAlign is the multiple, in elements, at which a parameter begins.
const paramAlign = 128

// placeParams lays a model's parameters out. Those of a joined group follow each
// other without gaps, the rows of those beside each other lie side by side.
func placeParams(cfg model.Config, joined, beside [][]string) *params {
	return placeList(cfg.Params(), joined, beside)
}

func placeList(list []model.Param, joined, beside [][]string) *params {
	p := &params{offset: map[string]int{}, list: list, spans: map[string]int{}, pitch: map[string]int{}}
	byName := map[string]model.Param{}
	groupOf := map[string][]string{}
	for _, param := range p.list {
		byName[param.Name] = param
	}
	for _, g := range joined {
		for _, name := range g {
			groupOf[name] = g
		}
	}
	for _, g := range beside {
		p.size = (p.size + paramAlign - 1) / paramAlign * paramAlign
		pitch := 0
		for _, name := range g {
			p.offset[name] = p.size + pitch
			pitch += byName[name].Shape[1]
		}
		for _, name := range g {
			p.pitch[name], p.spans[name] = pitch, 0
		}
		p.spans[g[0]] = byName[g[0]].Shape[0] * pitch
		p.size += p.spans[g[0]]
	}
	for _, param := range p.list {
		if _, done := p.offset[param.Name]; done {
			continue
		}
		group := groupOf[param.Name]
		if group == nil {
			group = []string{param.Name}
		}
		p.size = (p.size + paramAlign - 1) / paramAlign * paramAlign
		for _, name := range group {
			p.offset[name], p.spans[name] = p.size, byName[name].Size()
			p.size += byName[name].Size()
		}
	}
	p.size = (p.size + paramAlign - 1) / paramAlign * paramAlign
	for _, param := range p.list {
		p.at = append(p.at, p.offset[param.Name])
	}
	return p
}

// constants is the order of parameters that are only read, in one array: all of
// them in the type of activations and then, unless that is float32, once more in
// float32 those that kernels read so: gains and biases.
type constants struct {
	all, vectors *params // vectors is nil where all are float32
	sizes        sizes
	size         int64 // bytes
}

func placeConstants(cfg model.Config, joined [][]string, s sizes) *constants {
	c := &constants{all: placeParams(cfg, joined, nil), sizes: s}
	c.size = c.vectorsAt()
	if s.activation != s.of(float) {
		c.vectors = placeList(slices.DeleteFunc(cfg.Params(), func(p model.Param) bool { return len(p.Shape) != 1 }), nil, nil)
		c.size += int64(c.vectors.size) * s.of(float)
	}
	return c
}

// vectorsAt is where the vectors begin, in bytes.
func (c *constants) vectorsAt() int64 {
	return (int64(c.all.size)*c.sizes.activation + alignment - 1) / alignment * alignment
}

// offset is where a weight or master begins, in bytes.
func (c *constants) offset(m *matrix) int64 {
	if m.role == master && c.vectors != nil {
		return c.vectorsAt() + int64(c.vectors.offset[m.params[0]])*c.sizes.of(float)
	}
	return int64(c.all.offset[m.params[0]]) * c.sizes.activation
}
