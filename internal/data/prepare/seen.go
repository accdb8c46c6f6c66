package prepare

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// seenSet remembers the hashes of documents. Two different documents are taken
// for duplicates with a chance of n*n/2^65, 5e-4 for all 134 million of the
// Pile. Every hash is also appended to a file, from which an interrupted
// preparation gets them back.
type seenSet struct {
	path  string
	file  *os.File
	out   *bufio.Writer
	table []uint64 // open addressing, 0 is empty
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
		s.insert(binary.LittleEndian.Uint64(b[:]))
	}
	if err := file.Truncate(8 * n); err != nil {
		return fmt.Errorf("duplicates: %w", err)
	}
	_, err = file.Seek(8*n, io.SeekStart)
	return err
}

// add reports whether a hash is new and remembers it.
func (s *seenSet) add(hash uint64) (bool, error) {
	if !s.insert(hash) {
		return false, nil
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], hash)
	if _, err := s.out.Write(b[:]); err != nil {
		return false, fmt.Errorf("duplicates: %w", err)
	}
	return true, nil
}

func (s *seenSet) insert(hash uint64) bool {
	hash |= boolBit(hash == 0)
	if 4*(s.n+1) > 3*int64(len(s.table)) {
		s.grow()
	}
	if !place64(s.table, hash) {
		return false
	}
	s.n++
	return true
}

func boolBit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
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

func (s *seenSet) grow() {
	table := make([]uint64, 2*len(s.table))
	for _, hash := range s.table {
		if hash != 0 {
			place64(table, hash)
		}
	}
	s.table = table
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
}
