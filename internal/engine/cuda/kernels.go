//go:build gpu && cgo && linux && (amd64 || arm64)

package cuda

import (
	"fmt"
	"strings"
	"sync"

	"mlkv/internal/engine/cuda/gpu"
)

// variant is a kernel file compiled with given constants.
type variant struct {
	file    string
	defines string // space-separated NAME=VALUE
}

func (v variant) String() string { return v.file + " " + v.defines }

// kernelSet compiles and loads kernel files as they are asked for.
type kernelSet struct {
	compiler          *gpu.Compiler
	programs, headers map[string]string
	modules           map[variant]*gpu.Module
	kernels           map[variant]map[string]*gpu.Kernel
	ints              map[variant]map[string][]int32
	defines           []string // further constants of every file, which tests set
}

func newKernelSet(compiler *gpu.Compiler) *kernelSet {
	k := &kernelSet{
		compiler: compiler, modules: map[variant]*gpu.Module{},
		kernels: map[variant]map[string]*gpu.Kernel{}, ints: map[variant]map[string][]int32{},
	}
	k.programs, k.headers = sources()
	return k
}

// image compiles a variant.
func (k *kernelSet) image(v variant) ([]byte, error) {
	text, ok := k.programs[v.file]
	if !ok {
		return nil, fmt.Errorf("kernel file %s is not in this binary", v.file)
	}
	src := gpu.Source{Name: v.file, Text: text, Headers: k.headers}
	for _, d := range append(strings.Fields(v.defines), k.defines...) {
		src.Options = append(src.Options, "-D"+d)
	}
	return k.compiler.Compile(src)
}

// load makes variants ready, those that are not in the cache at the same time.
func (k *kernelSet) load(list ...variant) error {
	images, errs := make([][]byte, len(list)), make([]error, len(list))
	var wg sync.WaitGroup
	for i, v := range list {
		if k.modules[v] == nil {
			wg.Go(func() { images[i], errs[i] = k.image(v) })
		}
	}
	wg.Wait()
	for i, v := range list {
		switch {
		case errs[i] != nil:
			return errs[i]
		case k.modules[v] != nil:
			continue
		}
		m, err := gpu.LoadModule(v.String(), images[i])
		if err != nil {
			return err
		}
		k.modules[v], k.kernels[v], k.ints[v] = m, map[string]*gpu.Kernel{}, map[string][]int32{}
	}
	return nil
}

// kernel is a function of a variant.
func (k *kernelSet) kernel(v variant, name string) (*gpu.Kernel, error) {
	if err := k.load(v); err != nil {
		return nil, err
	}
	if f := k.kernels[v][name]; f != nil {
		return f, nil
	}
	f, err := k.modules[v].Kernel(name)
	if err != nil {
		return nil, err
	}
	k.kernels[v][name] = f
	return f, nil
}

// constants are n ints that a variant defines.
func (k *kernelSet) constants(v variant, name string, n int) ([]int32, error) {
	if err := k.load(v); err != nil {
		return nil, err
	}
	if c := k.ints[v][name]; c != nil {
		return c, nil
	}
	c, err := k.modules[v].Ints(name, n)
	if err != nil {
		return nil, err
	}
	k.ints[v][name] = c
	return c, nil
}

func (k *kernelSet) close() error {
	for v, m := range k.modules {
		delete(k.modules, v)
		if err := m.Unload(); err != nil {
			return err
		}
	}
	return nil
}
