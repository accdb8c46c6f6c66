package source

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// input is a file that is read once from its beginning, through the
// decompressor that its name asks for, while its checksum is taken.
type input struct {
	path string
	file *os.File
	hash hash.Hash
	read int64 // bytes of the file
	data io.Reader
	stop func()
	sum  string
}

// maxWindow is the largest window of a zstd frame that is accepted, that of
// zstd --long=31. A frame takes as much memory as it asks for.
const maxWindow = 1 << 31

func openInput(path string) (*input, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &Damage{path, err}
	}
	in := &input{path: path, file: file, hash: sha256.New(), stop: func() {}}
	if err := in.decompress(); err != nil {
		file.Close()
		return nil, &Damage{path, err}
	}
	return in, nil
}

func (in *input) decompress() error {
	raw := bufio.NewReaderSize((*inputFile)(in), 256<<10)
	in.data = raw
	switch {
	case strings.HasSuffix(in.path, ".zst"):
		d, err := zstd.NewReader(raw, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		in.data, in.stop = d, d.Close
	case strings.HasSuffix(in.path, ".gz"):
		d, err := gzip.NewReader(raw)
		if err != nil {
			return err
		}
		in.data = d
	}
	return nil
}

// inputFile reads the file itself.
type inputFile input

func (f *inputFile) Read(p []byte) (int, error) {
	n, err := f.file.Read(p)
	f.hash.Write(p[:n])
	f.read += int64(n)
	if err == io.EOF && f.sum == "" {
		f.sum = hex.EncodeToString(f.hash.Sum(nil))
	}
	return n, err
}

func (in *input) Sum() string { return in.sum }

func (in *input) Close() error {
	in.stop()
	return in.file.Close()
}

// fill reads until buf is full. Unlike io.ReadFull it passes errors on as they
// are, so that io.EOF is the end and io.ErrUnexpectedEOF a cut file.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}
