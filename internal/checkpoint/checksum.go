package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"sync"
)

// Checksum is the SHA-256 of the weight file in hexadecimal, as sha256sum and
// the hub give it. For a model in shards it is the SHA-256 of the list that
// sha256sum prints for them, in alphabetical order.
func (c *Checkpoint) Checksum() (string, error) {
	sums := make([]string, len(c.files))
	var wg sync.WaitGroup
	for i, f := range c.files {
		wg.Go(func() {
			sum := sha256.Sum256(f.mapping.data)
			sums[i] = hex.EncodeToString(sum[:])
		})
	}
	wg.Wait()
	if len(sums) == 1 {
		return sums[0], nil
	}
	h := sha256.New()
	for i, f := range c.files {
		fmt.Fprintf(h, "%s  %s\n", sums[i], filepath.Base(f.path))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
