package source

import (
	"io"
	"path/filepath"
	"testing"
)

// BenchmarkRead reads and decompresses the lines of a shard of text, which one
// goroutine does for all that decode and tokenize.
func BenchmarkRead(b *testing.B) {
	path := filepath.Join("..", "..", "..", "..", "shared", "data", "corpus", "train-00.jsonl.zst")
	inputs, err := Find([]string{path}, Options{})
	if err != nil {
		b.Skipf("needs the shared data: %v", err)
	}
	for _, decode := range []bool{false, true} {
		name := "blocks"
		if decode {
			name = "documents"
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				src, err := inputs[0].Open()
				if err != nil {
					b.Fatal(err)
				}
				size := int64(0)
				for {
					block, err := src.Next()
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
					size += block.Size()
					if decode {
						for _, err := range block.Documents() {
							if err != nil {
								b.Fatal(err)
							}
						}
					}
				}
				b.SetBytes(size)
				src.Close()
			}
		})
	}
}
