package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// newChecksum is the hash whose value is a file's ETag: SHA-256, or for the
// files that git itself holds the SHA-1 of its object, "blob SIZE\0" before the
// content.
func newChecksum(f File) hash.Hash {
	if len(f.ETag) == 64 {
		return sha256.New()
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", f.Size)
	return h
}

// checksumName is what messages call it.
func checksumName(etag string) string {
	if len(etag) == 64 {
		return "SHA-256"
	}
	return "git SHA-1"
}

// mismatch is content with another checksum than the hub announced.
type mismatch struct {
	etag, found string
}

func (m mismatch) Error() string {
	return fmt.Sprintf("%s: expected %s, found %s", checksumName(m.etag), m.etag, m.found)
}

// verify reads a file's content and compares its checksum.
func verify(ctx context.Context, content io.ReaderAt, f File) error {
	h := newChecksum(f)
	r := io.NewSectionReader(content, 0, f.Size)
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("cache: %w", err)
		}
	}
	if found := hex.EncodeToString(h.Sum(nil)); found != f.ETag {
		return mismatch{f.ETag, found}
	}
	return nil
}
