package eval

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// phases are how long the parts of an evaluation took. Parts may overlap.
type phases struct {
	mu   sync.Mutex
	took Object
}

// measure notes how long f takes under a name.
func (p *phases) measure(name string, f func() error) error {
	start := time.Now()
	err := f()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = append(p.took, Field{name, time.Since(start).Seconds()})
	return err
}

// seconds lists the parts by name.
func (p *phases) seconds() Object {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(slices.Values(p.took), func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
}
