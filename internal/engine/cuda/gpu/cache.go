package gpu

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Cache keeps compiled kernels and chosen algorithms in a folder, a file for
// each, named by the hash of everything that the content depends on. A file
// ends with its own checksum, so that a damaged one is noticed and made anew.
// A folder that cannot be used costs time only; Warn is told once.
type Cache struct {
	dir  string
	warn func(string)
	once sync.Once
}

// OpenCache names the folder mlkv/kind in the user's cache folder
// ($XDG_CACHE_HOME or ~/.cache). It is made when something is first put there.
func OpenCache(kind string, warn func(string)) *Cache {
	c := &Cache{warn: warn}
	base, err := os.UserCacheDir()
	if err != nil {
		c.complain(fmt.Errorf("no cache folder: %w", err))
		return c
	}
	c.dir = filepath.Join(base, "mlkv", kind)
	return c
}

// Key hashes parts; no two different lists of parts have the same key.
func Key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\x00%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Get returns what was put under a file name, and whether it is there whole.
func (c *Cache) Get(name string) ([]byte, bool) {
	if c.dir == "" {
		return nil, false
	}
	path := filepath.Join(c.dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.complain(err)
		}
		return nil, false
	}
	body, ok := unseal(data)
	if !ok {
		c.complain(fmt.Errorf("%s: the checksum does not match; it is made anew", path))
	}
	return body, ok
}

// Put stores data under a file name, replacing what was there, at once.
func (c *Cache) Put(name string, data []byte) {
	c.store(name, data, os.Rename)
}

// PutNew stores data unless a whole file is there already, and returns what is
// there afterwards: of two programs that put different data, both get the same.
func (c *Cache) PutNew(name string, data []byte) []byte {
	if _, ok := c.Get(name); !ok {
		// A damaged file would win over the link.
		if c.dir != "" {
			_ = os.Remove(filepath.Join(c.dir, name))
		}
		c.store(name, data, func(tmp, path string) error {
			if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return os.Remove(tmp)
		})
	}
	if there, ok := c.Get(name); ok {
		return there
	}
	return data
}

func (c *Cache) store(name string, data []byte, publish func(tmp, path string) error) {
	if c.dir == "" {
		return
	}
	if err := c.write(name, seal(data), publish); err != nil {
		c.complain(err)
	}
}

func (c *Cache) write(name string, data []byte, publish func(tmp, path string) error) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = publish(f.Name(), filepath.Join(c.dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func (c *Cache) complain(err error) {
	if c.warn != nil {
		c.once.Do(func() { c.warn("kernel cache: " + err.Error()) })
	}
}

// A sealed file is the content, a mark and the content's SHA-256. Behind an ELF
// image it disturbs no reader.
var sealMark = []byte("mlkvseal")

func seal(data []byte) []byte {
	sum := sha256.Sum256(data)
	return bytes.Join([][]byte{data, sealMark, sum[:]}, nil)
}

func unseal(data []byte) ([]byte, bool) {
	n := len(data) - sha256.Size - len(sealMark)
	if n < 0 || !bytes.HasPrefix(data[n:], sealMark) {
		return nil, false
	}
	sum := sha256.Sum256(data[:n])
	return data[:n:n], bytes.Equal(sum[:], data[n+len(sealMark):])
}
