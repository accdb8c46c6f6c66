package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// unpickle reads the pickle of a PyTorch state dict. It knows data and the
// globals that a state dict needs, and runs nothing: any other global, and any
// opcode that such a file does not hold, is an error that names it. Opcodes
// are those of Python's pickletools.
func unpickle(data []byte) (any, error) {
	m := &pickleMachine{in: data, memo: map[int]any{}}
	v, err := m.run()
	if err != nil {
		return nil, fmt.Errorf("pickle: byte %d: %w", m.at, err)
	}
	return v, nil
}

// What a pickle's values become: None is nil, and bool, int, float64, string
// are themselves.
type (
	tuple []any
	list  struct{ items []any }
	// dict keeps its members in file order.
	dict struct{ items []pair }
	pair struct{ key, value any }
	// global is a class or function that was named, by "module.name".
	global string
	// persistent is the reference to a storage that lies outside the pickle.
	persistent struct{ id any }
	// rebuilt is a call of a tensor-making function that is still to be
	// looked at.
	rebuilt struct {
		function global
		args     tuple
	}
)

// known lists every global that a state dict may name.
var known = map[global]bool{
	"collections.OrderedDict":         true,
	"torch._utils._rebuild_tensor_v2": true,
	"torch._utils._rebuild_parameter": true,
	"torch.FloatStorage":              true,
	"torch.HalfStorage":               true,
	"torch.BFloat16Storage":           true,
	"torch.ByteStorage":               true,
	"torch.BoolStorage":               true,
}

type mark struct{}

type pickleMachine struct {
	in    []byte
	at    int
	stack []any
	memo  map[int]any
}

// maxPickled bounds the values that one pickle may make.
const maxPickled = 1 << 24

func (m *pickleMachine) run() (any, error) {
	for steps := 0; steps < maxPickled; steps++ {
		b, err := m.take(1)
		if err != nil {
			return nil, err
		}
		if b[0] == '.' {
			return m.pop()
		}
		if err := m.step(b[0]); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("expected at most %d opcodes", maxPickled)
}

// step runs one opcode.
func (m *pickleMachine) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		_, err := m.take(1)
		return err
	case 0x95: // FRAME
		_, err := m.take(8)
		return err
	case '(':
		m.push(mark{})
	case '0': // POP
		_, err := m.pop()
		return err
	case 'N', 0x88, 0x89, 'K', 'M', 'J', 0x8a, 'G', 'X', 0x8c:
		return m.scalar(op)
	case ')', 0x85, 0x86, 0x87, 't', ']', '}', 'e', 'a', 's', 'u':
		return m.collect(op)
	case 'q', 'r', 'h', 'j', 0x94:
		return m.remember(op)
	case 'c', 0x93:
		return m.global(op)
	case 'Q': // BINPERSID
		id, err := m.pop()
		if err != nil {
			return err
		}
		m.push(persistent{id})
	case 'R':
		return m.reduce()
	case 'b':
		return m.build()
	default:
		return fmt.Errorf("opcode 0x%02x: expected one that a PyTorch state dict uses", op)
	}
	return nil
}

// scalar pushes a value that the opcode carries.
func (m *pickleMachine) scalar(op byte) error {
	switch op {
	case 'N':
		m.push(nil)
		return nil
	case 0x88, 0x89:
		m.push(op == 0x88)
		return nil
	}
	width := map[byte]int{'K': 1, 'M': 2, 'J': 4, 0x8a: 1, 'G': 8, 'X': 4, 0x8c: 1}[op]
	b, err := m.take(width)
	if err != nil {
		return err
	}
	switch op {
	case 'K':
		m.push(int(b[0]))
	case 'M':
		m.push(int(binary.LittleEndian.Uint16(b)))
	case 'J':
		m.push(int(int32(binary.LittleEndian.Uint32(b))))
	case 'G':
		m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 0x8a: // LONG1: a two's complement number of up to 255 bytes
		if b, err = m.take(int(b[0])); err != nil {
			return err
		}
		if len(b) > 8 {
			return fmt.Errorf("integer of %d bytes: expected at most 8", len(b))
		}
		n := int64(0)
		for i := len(b) - 1; i >= 0; i-- {
			if i == len(b)-1 {
				n = int64(int8(b[i]))
			} else {
				n = n<<8 | int64(b[i])
			}
		}
		m.push(int(n))
	case 'X', 0x8c:
		n := int(b[0])
		if op == 'X' {
			n = int(binary.LittleEndian.Uint32(b))
		}
		if b, err = m.take(n); err != nil {
			return err
		}
		m.push(string(b))
	}
	return nil
}

// collect makes or extends a tuple, list or dict.
func (m *pickleMachine) collect(op byte) error {
	switch op {
	case ')':
		m.push(tuple{})
		return nil
	case ']':
		m.push(&list{})
		return nil
	case '}':
		m.push(&dict{})
		return nil
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		items, err := m.popN(int(op - 0x84))
		if err != nil {
			return err
		}
		m.push(tuple(items))
		return nil
	}
	var items []any
	var err error
	switch op {
	case 'a':
		items, err = m.popN(1)
	case 's':
		items, err = m.popN(2)
	default:
		items, err = m.popMark()
	}
	if err != nil {
		return err
	}
	switch op {
	case 't':
		m.push(tuple(items))
	case 'a', 'e':
		l, err := top[*list](m)
		if err != nil {
			return err
		}
		l.items = append(l.items, items...)
	case 's', 'u':
		d, err := top[*dict](m)
		if err != nil {
			return err
		}
		if len(items)%2 != 0 {
			return fmt.Errorf("dict: expected keys and values, found %d items", len(items))
		}
		for i := 0; i < len(items); i += 2 {
			d.items = append(d.items, pair{items[i], items[i+1]})
		}
	}
	return nil
}

// remember stores the top of the stack in the memo or brings a stored value
// back.
func (m *pickleMachine) remember(op byte) error {
	id := len(m.memo)
	if op != 0x94 {
		width := 1
		if op == 'r' || op == 'j' {
			width = 4
		}
		b, err := m.take(width)
		if err != nil {
			return err
		}
		id = int(b[0])
		if width == 4 {
			id = int(binary.LittleEndian.Uint32(b))
		}
	}
	if op == 'h' || op == 'j' {
		v, ok := m.memo[id]
		if !ok {
			return fmt.Errorf("memo %d: never stored", id)
		}
		m.push(v)
		return nil
	}
	v, err := top[any](m)
	if err != nil {
		return err
	}
	m.memo[id] = v
	return nil
}

// global pushes the class or function that is named, if it is a known one.
func (m *pickleMachine) global(op byte) error {
	var module, name string
	if op == 'c' {
		for _, s := range []*string{&module, &name} {
			n := bytes.IndexByte(m.in[m.at:], '\n')
			if n < 0 {
				return fmt.Errorf("global: expected a line, found the end")
			}
			*s = string(m.in[m.at : m.at+n])
			m.at += n + 1
		}
	} else {
		items, err := m.popN(2)
		if err != nil {
			return err
		}
		var ok1, ok2 bool
		module, ok1 = items[0].(string)
		name, ok2 = items[1].(string)
		if !ok1 || !ok2 {
			return fmt.Errorf("global: expected two names, found %T and %T", items[0], items[1])
		}
	}
	g := global(module + "." + name)
	if !known[g] {
		return fmt.Errorf("refused to load %q: a state dict of weights needs no such class or function; nothing of the file was run", g)
	}
	m.push(g)
	return nil
}

// reduce notes the call of a known function.
func (m *pickleMachine) reduce() error {
	items, err := m.popN(2)
	if err != nil {
		return err
	}
	function, ok := items[0].(global)
	args, ok2 := items[1].(tuple)
	if !ok || !ok2 {
		return fmt.Errorf("call: expected a function and its arguments, found %T and %T", items[0], items[1])
	}
	switch {
	case function == "collections.OrderedDict":
		if len(args) != 0 {
			return fmt.Errorf("OrderedDict: expected no arguments, found %d", len(args))
		}
		m.push(&dict{})
	case strings.HasPrefix(string(function), "torch._utils."):
		m.push(rebuilt{function, args})
	default:
		return fmt.Errorf("refused to call %q", function)
	}
	return nil
}

// build drops the attributes of an OrderedDict, where PyTorch keeps the
// versions of modules.
func (m *pickleMachine) build() error {
	if _, err := m.pop(); err != nil {
		return err
	}
	_, err := top[*dict](m)
	return err
}

func (m *pickleMachine) take(n int) ([]byte, error) {
	if n > len(m.in)-m.at {
		return nil, fmt.Errorf("expected %d more bytes, found %d (is the file truncated?)", n, len(m.in)-m.at)
	}
	b := m.in[m.at : m.at+n]
	m.at += n
	return b, nil
}

func (m *pickleMachine) push(v any) { m.stack = append(m.stack, v) }

func (m *pickleMachine) pop() (any, error) {
	items, err := m.popN(1)
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

// popN takes the n topmost values off the stack, deepest first.
func (m *pickleMachine) popN(n int) ([]any, error) {
	base := len(m.stack) - n
	if base < 0 {
		return nil, fmt.Errorf("stack: expected %d values, found %d", n, len(m.stack))
	}
	items := append([]any(nil), m.stack[base:]...)
	for _, v := range items {
		if _, ok := v.(mark); ok {
			return nil, fmt.Errorf("stack: expected %d values, found a mark", n)
		}
	}
	m.stack = m.stack[:base]
	return items, nil
}

// popMark takes the values above the topmost mark, and the mark, off the stack.
func (m *pickleMachine) popMark() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0; i-- {
		if _, ok := m.stack[i].(mark); ok {
			items := append([]any(nil), m.stack[i+1:]...)
			m.stack = m.stack[:i]
			return items, nil
		}
	}
	return nil, fmt.Errorf("stack: expected a mark, found none")
}

// top returns the topmost value, which must be a T.
func top[T any](m *pickleMachine) (T, error) {
	var zero T
	if len(m.stack) == 0 {
		return zero, fmt.Errorf("stack: expected a value, found none")
	}
	v, ok := m.stack[len(m.stack)-1].(T)
	if !ok {
		return zero, fmt.Errorf("stack: expected %T, found %T", zero, m.stack[len(m.stack)-1])
	}
	return v, nil
}
