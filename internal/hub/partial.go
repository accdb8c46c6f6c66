package hub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// partial is a file on its way: its bytes, in parts that may arrive in any
// order, and behind them a record of how much of each part is there:
//
//	size bytes       the content, with holes
//	8 bytes          partialMagic
//	8 bytes          bytes in a part, all but the last
//	8 bytes a part   bytes of it that are there, from its beginning
//
// Numbers are little-endian. A count is written after the bytes that it counts,
// so it never promises too much, whenever the process ends. The name differs
// from the .incomplete files of the hub's tools, which take a file's length for
// what is there.
type partial struct {
	name string
	root *os.Root
	file *os.File
	size int64
	part int64

	mu    sync.Mutex
	count []int64
}

const partialMagic = "MLKVpart"

// Bounds of the bytes in a part, beyond which a record is no record.
const (
	minPart = 1 << 10
	maxPart = 1 << 50
)

func partialName(etag string) string { return blobName(etag) + ".mlkv.incomplete" }

// foreignName is the file that older tools of the hub leave: a beginning of the
// content.
func foreignName(etag string) string { return blobName(etag) + ".incomplete" }

// openPartial goes on with what is there of a file, or begins anew. The lock on
// the content is held.
func (c *cache) openPartial(f File, partSize int64) (*partial, error) {
	p := &partial{name: partialName(f.ETag), root: c.root, size: f.Size}
	prefix := c.adopt(f)
	var err error
	if p.file, err = c.openRegular(p.name); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if prefix == 0 && p.load() {
		return p, nil
	}
	p.part = partSize
	if err := p.clear(prefix); err != nil {
		p.close()
		return nil, fmt.Errorf("cache: %w", err)
	}
	return p, nil
}

// adopt takes over a beginning that another tool left, and returns its length.
func (c *cache) adopt(f File) int64 {
	info, err := c.root.Lstat(foreignName(f.ETag))
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 || info.Size() > f.Size {
		return 0
	}
	if _, err := c.root.Lstat(partialName(f.ETag)); err == nil {
		return 0
	}
	if err := c.root.Rename(foreignName(f.ETag), partialName(f.ETag)); err != nil {
		return 0
	}
	return info.Size()
}

// openRegular opens a file for writing, never through a link.
func (c *cache) openRegular(name string) (*os.File, error) {
	before, err := c.root.Lstat(name)
	if err == nil && !before.Mode().IsRegular() {
		if err := c.root.Remove(name); err != nil {
			return nil, err
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return c.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	}
	if err != nil {
		return nil, err
	}
	f, err := c.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(before, now) {
		f.Close()
		return nil, fmt.Errorf("%s: was replaced while it was opened", name)
	}
	return f, nil
}

// load reads the record; false where there is none that fits.
func (p *partial) load() bool {
	info, err := p.file.Stat()
	if err != nil {
		return false
	}
	if info.Size() == p.size && p.size > 0 {
		// All was there and verified, and the record taken off.
		p.part = max(p.size, minPart)
		p.count = []int64{p.size}
		return true
	}
	if info.Size() < p.size+16 {
		return false
	}
	head := make([]byte, 16)
	if _, err := p.file.ReadAt(head, p.size); err != nil || string(head[:8]) != partialMagic {
		return false
	}
	p.part = int64(binary.LittleEndian.Uint64(head[8:]))
	if p.part < minPart || p.part > maxPart || info.Size() != p.size+16+8*p.parts() {
		return false
	}
	counts := make([]byte, 8*p.parts())
	if _, err := p.file.ReadAt(counts, p.size+16); err != nil {
		return false
	}
	p.count = make([]int64, p.parts())
	for i := range p.count {
		p.count[i] = int64(binary.LittleEndian.Uint64(counts[8*i:]))
		if p.count[i] < 0 || p.count[i] > p.length(i) {
			return false
		}
	}
	return true
}

// received tells how much of a file is there.
func (c *cache) received(f File) int64 {
	if c.has(f) {
		return f.Size
	}
	content, err := c.root.Open(partialName(f.ETag))
	if err != nil {
		return 0
	}
	defer content.Close()
	p := partial{file: content, size: f.Size}
	if !p.load() {
		return 0
	}
	return p.have()
}

// clear forgets all but the first bytes of the content.
func (p *partial) clear(prefix int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count = make([]int64, p.parts())
	record := append([]byte(partialMagic), make([]byte, 8+8*len(p.count))...)
	binary.LittleEndian.PutUint64(record[8:], uint64(p.part))
	for i := range p.count {
		p.count[i] = min(max(0, prefix-int64(i)*p.part), p.length(i))
		binary.LittleEndian.PutUint64(record[16+8*i:], uint64(p.count[i]))
	}
	// The magic comes last: without it the record is void.
	if err := p.file.Truncate(min(prefix, p.size)); err != nil {
		return err
	}
	if _, err := p.file.WriteAt(record[8:], p.size+8); err != nil {
		return err
	}
	_, err := p.file.WriteAt(record[:8], p.size)
	return err
}

func (p *partial) parts() int64 { return (p.size + p.part - 1) / p.part }

// length is the number of bytes in a part.
func (p *partial) length(i int) int64 { return min(p.part, p.size-int64(i)*p.part) }

// got is the number of bytes of a part that are there.
func (p *partial) got(i int) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[i]
}

// have is the number of bytes that are there in all.
func (p *partial) have() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.count {
		n += c
	}
	return n
}

// missing lists the parts that are not whole.
func (p *partial) missing() (list []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.count {
		if c < p.length(i) {
			list = append(list, i)
		}
	}
	return list
}

// write puts the next bytes of part i, and of the parts behind it where b is
// longer. Different parts may be written concurrently.
func (p *partial) write(i int, b []byte) error {
	for len(b) > 0 {
		at := p.got(i)
		if at == p.length(i) {
			i++
			continue
		}
		n := min(int64(len(b)), p.length(i)-at)
		if _, err := p.file.WriteAt(b[:n], int64(i)*p.part+at); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		var count [8]byte
		binary.LittleEndian.PutUint64(count[:], uint64(at+n))
		if _, err := p.file.WriteAt(count[:], p.size+16+8*int64(i)); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		p.mu.Lock()
		p.count[i] = at + n
		p.mu.Unlock()
		b = b[n:]
	}
	return nil
}

// finish takes the record off and gives the content its name. It was verified
// before.
func (p *partial) finish(etag string) error {
	err := p.file.Truncate(p.size)
	if err == nil {
		err = p.file.Sync()
	}
	if err == nil {
		err = p.root.Rename(p.name, blobName(etag))
	}
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// remove deletes what was received.
func (p *partial) remove() error { return p.root.Remove(p.name) }

func (p *partial) close() { p.file.Close() }
