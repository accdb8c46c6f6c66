package prepare

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/edsrzf/mmap-go"
)

// seenSet remembers the hashes of documents. Two different documents are taken
// for duplicates with a chance of n*n/2^65, 5e-4 for all 134 million of the
// Pile. Every hash is also appended to a file, from which an interrupted
// preparation gets them back.
type seenSet struct {
	path  string
	file  *os.File
	out   *bufio.Writer
	table []uint64  // open addressing, 0 is empty
	mem   mmap.MMap // holds the table where it is large
	n     int64
}

// seenName is the file of hashes in a work folder.
const seenName = "seen.bin"

func newSeenSet(folder string) *seenSet {
	return &seenSet{path: filepath.Join(folder, seenName), table: make([]uint64, 1<<12)}
}

// open begins the file, or reads its first n hashes back and drops the others.
func (s *seenSet) open(n int64) error {
	file, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return fmt.Errorf("duplicates: %w", err)
	}
	s.file, s.out = file, bufio.NewWriterSize(file, 1<<16)
	in := bufio.NewReaderSize(file, 1<<20)
	var b [8]byte
	for range n {
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return fmt.Errorf("duplicates: %s: expected %d hashes: %w", s.path, n, err)
		}
		if _, err := s.insert(binary.LittleEndian.Uint64(b[:])); err != nil {
			return err
		}
	}
	if err := file.Truncate(8 * n); err != nil {
		return fmt.Errorf("duplicates: %w", err)
	}
	_, err = file.Seek(8*n, io.SeekStart)
	return err
}

// add reports whether a hash is new and remembers it.
func (s *seenSet) add(hash uint64) (bool, error) {
	if fresh, err := s.insert(hash); !fresh || err != nil {
		return false, err
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], hash)
	if _, err := s.out.Write(b[:]); err != nil {
		return false, fmt.Errorf("duplicates: %w", err)
	}
	return true, nil
}

func (s *seenSet) insert(hash uint64) (fresh bool, err error) {
	hash = max(hash, 1) // 0 marks an empty slot
	if 4*(s.n+1) > 3*int64(len(s.table)) {
		if err := s.grow(); err != nil {
			return false, err
		}
	}
	if !place64(s.table, hash) {
		return false, nil
	}
	s.n++
	return true, nil
}

// place64 puts a hash into a table with room; false says that it was there.
func place64(table []uint64, hash uint64) bool {
	mask := uint64(len(table) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		switch table[i] {
		case 0:
			table[i] = hash
			return true
		case hash:
			return false
		}
	}
}

// grow doubles the table.
func (s *seenSet) grow() error {
	table, mem, err := newTable(s.path, 2*len(s.table))
	if err != nil {
		return fmt.Errorf("duplicates: %w", err)
	}
	for _, hash := range s.table {
		if hash != 0 {
			place64(table, hash)
		}
	}
	s.unmap()
	s.table, s.mem = table, mem
	return nil
}

// largeTable is the number of slots from which a table lies in a mapped file,
// whose pages the system can write out when memory is short.
var largeTable = 1 << 23

// newTable makes room for hashes; mem is to be unmapped where it is not nil.
func newTable(path string, slots int) (table []uint64, mem mmap.MMap, err error) {
	if slots < largeTable {
		return make([]uint64, slots), nil, nil
	}
	file, err := os.Create(path + ".table")
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	defer os.Remove(file.Name())
	if err := file.Truncate(int64(8 * slots)); err != nil {
		return nil, nil, err
	}
	if mem, err = mmap.Map(file, mmap.RDWR, 0); err != nil {
		return nil, nil, err
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(mem))), slots), mem, nil
}

func (s *seenSet) unmap() {
	if s.mem != nil {
		s.mem.Unmap()
		s.mem = nil
	}
}

// save writes the hashes through to the disk and returns how many there are.
func (s *seenSet) save() (int64, error) {
	if err := s.out.Flush(); err != nil {
		return 0, fmt.Errorf("duplicates: %w", err)
	}
	if err := s.file.Sync(); err != nil {
		return 0, fmt.Errorf("duplicates: %w", err)
	}
	return s.n, nil
}

func (s *seenSet) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.unmap()
}
