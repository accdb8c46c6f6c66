// Package cpu runs the model's graph on the processor: gorgonia builds and
// differentiates it, package plan lays it out in one arena, and the kernels of
// package op compute it in float32.
//
// gorgonia's own tape machine runs the same graph and gives the same bits (a
// test compares them); it allocates every intermediate result anew at each run
// and keeps all of them, which is why it is the reference and not the engine.
package cpu

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"mlkv/internal/blas"
	"mlkv/internal/engine"
	"mlkv/internal/graph"
	"mlkv/internal/model"
)

// Engine is the processor as an engine.Engine.
type Engine struct{}

// Open makes an engine that uses the given number of threads; 0 takes all.
// Results do not depend on it.
func Open(threads int) *Engine {
	blas.SetThreads(threads)
	return &Engine{}
}

// Info implements engine.Engine.
func (*Engine) Info() engine.Info {
	info := engine.Info{Device: "cpu", Name: processor(), Backend: blas.Backend(), Threads: blas.Threads(), CacheBits: 32}
	info.Free, info.Total = memory()
	info.Used = resident()
	return info
}

// processor is the model name that the kernel reports.
func processor() string {
	if name := field("/proc/cpuinfo", "model name"); name != "" {
		return name
	}
	return "unknown processor"
}

// memory is what programs can still take, page cache included, and all there
// is, in bytes; 0 where the kernel does not tell.
func memory() (free, total int64) {
	return kib("/proc/meminfo", "MemAvailable"), kib("/proc/meminfo", "MemTotal")
}

// resident is the part of this process that is in memory, in bytes; 0 where the
// kernel does not tell.
func resident() int64 { return kib("/proc/self/status", "VmRSS") }

// kib is a field in bytes whose value is in units of 1024 of them.
func kib(path, key string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(field(path, key), " kB"), 10, 64)
	return n << 10
}

// field is the first value of a key in a file of "key: value" lines.
func field(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Close implements engine.Engine.
func (*Engine) Close() error { return nil }

// load reads every parameter. With own, the slices are copies that may be
// written to.
func load(cfg model.Config, w engine.Weights, own bool) (map[string][]float32, error) {
	params := map[string][]float32{}
	for _, p := range cfg.Params() {
		data, err := w.Float32(p.Name)
		if err != nil {
			return nil, err
		}
		if len(data) != p.Size() {
			return nil, fmt.Errorf("parameter %s: expected %d elements, found %d", p.Name, p.Size(), len(data))
		}
		if own {
			data = append([]float32(nil), data...)
		}
		params[p.Name] = data
	}
	return params, nil
}

func bytes(params map[string][]float32) int64 {
	n := int64(0)
	for _, p := range params {
		n += int64(len(p)) * 4
	}
	return n
}

// compileLoss is the program of the summed loss of a batch.
func compileLoss(cfg model.Config, rows, length int, params map[string][]float32) (*program, error) {
	g, err := graph.Build(cfg, graph.Options{Rows: rows, Length: length, Output: graph.Loss})
	if err != nil {
		return nil, err
	}
	return compile(g, params, nodes(g.Loss))
}
