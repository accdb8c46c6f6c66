package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// pickler writes pickles of protocol 2, as torch.save does.
type pickler struct{ bytes.Buffer }

func newPickler() *pickler {
	p := &pickler{}
	p.WriteString("\x80\x02")
	return p
}

// global names a class or a function.
func (p *pickler) global(module, name string) { fmt.Fprintf(p, "c%s\n%s\n", module, name) }

func (p *pickler) text(s string) {
	p.WriteByte('X')
	p.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(s))))
	p.WriteString(s)
}

// integer writes a number in LONG1's eight bytes of two's complement.
func (p *pickler) integer(n int) {
	p.WriteString("\x8a\x08")
	p.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func (p *pickler) integers(ns ...int) {
	p.WriteByte('(')
	for _, n := range ns {
		p.integer(n)
	}
	p.WriteByte('t')
}

// tensor writes the call that makes a tensor from the storage of the given key
// and number of elements, which is of a class of module torch.
func (p *pickler) tensor(class, key string, elements, offset int, shape, stride []int) {
	p.global("torch._utils", "_rebuild_tensor_v2")
	p.WriteString("((")
	p.text("storage")
	p.global("torch", class)
	p.text(key)
	p.text("cpu")
	p.integer(elements)
	p.WriteString("tQ") // the tuple is the storage's persistent id
	p.integer(offset)
	p.integers(shape...)
	p.integers(stride...)
	p.WriteByte(0x89) // requires_grad: False
	p.global("collections", "OrderedDict")
	p.WriteString(")RtR")
}

// end closes a pickle and returns it.
func (p *pickler) end() []byte {
	p.WriteByte('.')
	return p.Bytes()
}
