// Package engine is the contract between the model as a graph and whatever
// device runs it. An engine trains (Trainer), scores (Scorer) and decodes
// (Decoder); package engine/cpu and engine/cuda implement it.
package engine

import (
	"context"
	"errors"
	"fmt"

	"mlkv/internal/model"
)

// Ignore marks a target position that counts neither in the loss nor in the
// gradient.
const Ignore int32 = -1

// ErrOutOfMemory says that a device does not hold what was asked for.
var ErrOutOfMemory = errors.New("out of memory")

// Weights gives a model's parameters in float32 by their names in
// model.Config.Params.
type Weights interface {
	// Float32 returns the elements of a parameter in row-major order. The
	// slice may be mapped from a file: it must not be written to, and is
	// valid until the source is closed.
	Float32(name string) ([]float32, error)
}

// Batch is rows of tokens of one length with what is to be predicted at every
// position.
type Batch struct {
	Rows, Length int
	Tokens       []int32 // [Rows*Length]
	Targets      []int32 // [Rows*Length], Ignore where nothing counts
}

// NewBatch lays packed rows out as a batch of the given length: a row's targets
// are its tokens shifted by one. A row holds at most length+1 tokens; what a
// shorter one lacks is filled with token 0 and Ignore.
func NewBatch(rows [][]uint16, length int) Batch {
	b := Batch{
		Rows: len(rows), Length: length,
		Tokens:  make([]int32, len(rows)*length),
		Targets: make([]int32, len(rows)*length),
	}
	for r, row := range rows {
		for i := range length {
			at := r*length + i
			b.Targets[at] = Ignore
			if i < len(row) {
				b.Tokens[at] = int32(row[i])
			}
			if i+1 < len(row) {
				b.Targets[at] = int32(row[i+1])
			}
		}
	}
	return b
}

// Counted is the number of positions with a target.
func (b Batch) Counted() int {
	n := 0
	for _, t := range b.Targets {
		if t != Ignore {
			n++
		}
	}
	return n
}

// Check reports how a batch departs from a trainer's shapes, or the first token
// or target that the model has no row for.
func (b Batch) Check(o TrainOptions, vocab int) error {
	if b.Rows != o.Rows || b.Length != o.Length {
		return fmt.Errorf("batch: expected %d rows of %d tokens, found %d of %d", o.Rows, o.Length, b.Rows, b.Length)
	}
	if err := CheckTokens(b.Tokens, vocab); err != nil {
		return err
	}
	for i, target := range b.Targets {
		if target != Ignore && (target < 0 || int(target) >= vocab) {
			return fmt.Errorf("target %d: id %d is outside the vocabulary of %d", i, target, vocab)
		}
	}
	return nil
}

// Decay says which parameters weight decay acts on.
type Decay string

const (
	DecayMatrices Decay = "matrices" // all but biases and layer norms
	DecayAll      Decay = "all"
)

// AdamW is the optimizer (arXiv 1711.05101) with gradient clipping by global
// norm.
type AdamW struct {
	Beta1, Beta2 float64
	Eps          float64
	WeightDecay  float64
	Decay        Decay
	Clip         float64 // greatest gradient norm; 0 does not clip
}

// TrainOptions fix a trainer's shapes and optimizer.
type TrainOptions struct {
	Rows, Length int // of every micro-batch
	Optimizer    AdamW
	// Distill names a teacher to learn from beside the targets; nil for none.
	Distill *Distill
}

// Distill makes the loss of a position with a target
//
//	(1-Weight) * cross-entropy + Weight * Temperature^2 * KL(teacher || model)
//
// where both distributions of the divergence are taken at Temperature
// (arXiv 1503.02531).
type Distill struct {
	Weight      float64 // 0 to 1
	Temperature float64 // more than 0
	Teacher     model.Config
	// Weights are the teacher's, valid until the trainer is closed; planning
	// does not read them.
	Weights Weights
}

// Step is what one optimizer step did.
type Step struct {
	Loss     float64 // mean of the objective over the step's counted positions, before the update
	GradNorm float64 // global norm before clipping
	Tokens   int     // counted positions

	// CrossEntropy is the plain part of Loss, and Loss itself without a
	// teacher; Divergence is the mean KL(teacher || model) at the temperature,
	// without weight and temperature, 0 without a teacher.
	CrossEntropy, Divergence float64
}

// Slot names one of the arrays that a trainer keeps for each parameter.
type Slot string

const (
	SlotWeight Slot = "weight"
	SlotFirst  Slot = "exp_avg"
	SlotSecond Slot = "exp_avg_sq"
)

// Slots lists every Slot, in the order in which they are stored.
var Slots = []Slot{SlotWeight, SlotFirst, SlotSecond}

// Trainer runs forward, backward and update. Its methods must not be called
// concurrently.
type Trainer interface {
	// Accumulate adds a micro-batch's summed loss and its gradient to those
	// of the step at hand.
	Accumulate(ctx context.Context, b Batch) error
	// Update divides the accumulated gradient by the step's counted
	// positions, clips it, applies AdamW at the given learning rate and
	// clears the accumulators. Where loss or gradient norm is not finite it
	// changes no weight and no moment and does not count in Steps.
	Update(ctx context.Context, lr float64) (Step, error)
	// Discard clears the accumulators without an update.
	Discard()
	// Loss sums the cross-entropy of a batch, whether there is a teacher or
	// not, without touching gradients, and counts its positions. The batch has the shape of TrainOptions. It must not be
	// called between Accumulate and Update or Discard.
	Loss(ctx context.Context, b Batch) (sum float64, counted int, err error)

	// Steps is the number of updates so far, AdamW's t.
	Steps() int
	// Read copies a parameter's slot into dst, whose length is its size.
	Read(name string, slot Slot, dst []float32) error
	// Restore sets the number of updates and every slot of every parameter
	// from src.
	Restore(steps int, src func(name string, slot Slot) ([]float32, error)) error
	// Memory is what the trainer holds, in bytes.
	Memory() Memory
	Close() error
}

// Memory is what a trainer, scorer or decoder holds on its device, in bytes.
type Memory struct {
	Weights, Gradients, Optimizer, Activations, Workspace int64
	// Cache are a decoder's keys and values.
	Cache int64
	// Teacher are the weights of TrainOptions.Distill.
	Teacher int64
}

// Total is the sum of all parts.
func (m Memory) Total() int64 {
	return m.Weights + m.Gradients + m.Optimizer + m.Activations + m.Workspace + m.Cache + m.Teacher
}

// Request is one sequence to score: the log-likelihood of its tokens from
// position From on, each given all before it. 1 <= From < len(Tokens).
type Request struct {
	Tokens []int32
	From   int
}

// Score answers a Request, one element for each scored token.
type Score struct {
	LogLikelihood []float32 // natural logarithm
	Greedy        []bool    // whether the token was the most likely one
}

// Sum is the summed log-likelihood.
func (s Score) Sum() float64 {
	sum := 0.0
	for _, l := range s.LogLikelihood {
		sum += float64(l)
	}
	return sum
}

// AllGreedy reports whether every token was the most likely one.
func (s Score) AllGreedy() bool {
	for _, g := range s.Greedy {
		if !g {
			return false
		}
	}
	return true
}

// Scorer computes log-likelihoods. A request's score does not depend on the
// requests beside it, nor on how many there are.
type Scorer interface {
	// BatchTokens is how many tokens the requests of a call of Score have, when
	// the device is busy and memory moderate; a context that requests share in
	// a row counts once.
	BatchTokens() int
	// Score answers the requests in their order. The caller orders and groups
	// them, with those that share a context in a row: it is computed once.
	Score(ctx context.Context, reqs []Request) ([]Score, error)
	// Logits returns the logits of every position of one sequence, row-major
	// [len(tokens), vocab].
	Logits(ctx context.Context, tokens []int32) ([]float32, error)
	Memory() Memory
	Close() error
}

// Decoder extends sequences token by token with a key/value cache that holds
// one entry for each owner layer.
type Decoder interface {
	// Prefill empties the cache, reads one prompt for each row and returns
	// the logits after the last token of each, row-major [rows, vocab].
	Prefill(ctx context.Context, prompts [][]int32) ([]float32, error)
	// Next appends one token to each row and returns the logits after it,
	// row-major [rows, vocab]; valid until the next call.
	Next(ctx context.Context, tokens []int32) ([]float32, error)
	// Extend appends steps tokens to each row by greedy choice: it reads
	// tokens, one a row, then the most likely next ones, of which the first of
	// equals counts. It returns those chosen after each, row-major
	// [rows, steps]; logits stay on the device.
	Extend(ctx context.Context, tokens []int32, steps int) ([]int32, error)
	// Fill makes the cache hold length random keys and values in each row, at
	// least one, as if every row had read that many tokens: what is needed to
	// measure time and memory without reading prompts. Equal lengths and seeds
	// give equal contents.
	Fill(ctx context.Context, length int, seed uint64) error
	// Resize gives the decoder another capacity, with an empty cache. Where
	// that does not fit the error is ErrOutOfMemory, and the decoder holds no
	// cache until a later Resize succeeds.
	Resize(o DecodeOptions) error
	// CacheBytes is the memory that the cache holds for its capacity.
	CacheBytes() int64
	// Memory is what the decoder holds on its device, in bytes.
	Memory() Memory
	Close() error
}

// DecodeOptions fix a decoder's capacity.
type DecodeOptions struct {
	Rows    int // sequences decoded together
	MaxSize int // longest sequence, prompt and continuation
	// CacheBits is the size of a cached element; 0 takes Info.CacheBits. An
	// engine refuses sizes that it does not have.
	CacheBits int
	// MemoryLimit is the most that the decoder may hold on its device, in
	// bytes, weights included; 0 takes what there is. Beyond it the error is
	// ErrOutOfMemory.
	MemoryLimit int64
}

// Activations are what one layer's attention reads and makes for a batch of N
// tokens, before rotary. They are valid until the visit returns.
type Activations struct {
	Layer      int
	Input      []float32 // after layer norm, [N, H]
	Query      []float32 // [N, heads*head_size]
	Key, Value []float32 // [N, kv_heads*head_size]; nil in a layer that borrows them
	Output     []float32 // of the heads, before the output projection, [N, heads*head_size]
}

// Collector shows the inner results of a model.
type Collector interface {
	// Collect runs rows of tokens, [rows*length], and visits the layers in
	// ascending order.
	Collect(ctx context.Context, tokens []int32, visit func(Activations) error) error
	Close() error
}

// Observer is an Engine that can show inner results.
type Observer interface {
	Collector(cfg model.Config, w Weights, rows, length int) (Collector, error)
}

// Info tells what an engine runs on.
type Info struct {
	Device  string // "cpu" or "cuda:0"
	Name    string // for example the processor's model
	Backend string // for example "OpenBLAS 0.3.21 (SkylakeX)"
	Threads int
	// Absent says that the device is not here: its engine only plans, and calls
	// all else an ErrAbsent.
	Absent bool
	// Peak is the greatest rate of the units that do matrix products, in
	// floating-point operations a second; 0 where it is not known.
	Peak float64
	// Free and Total are the device's memory in bytes; 0 where not known.
	Free, Total int64
	// Used is the memory in use, in bytes: of a GPU by all that runs on it, as
	// its driver tells, of the CPU by this process (resident set); 0 where not
	// known.
	Used int64
	// CacheBits is the size of an element in a decoder's cache where
	// DecodeOptions name none.
	CacheBits int
}

// Engine makes trainers, scorers and decoders on one device.
type Engine interface {
	Info() Info
	Trainer(cfg model.Config, w Weights, o TrainOptions) (Trainer, error)
	Scorer(cfg model.Config, w Weights) (Scorer, error)
	Decoder(cfg model.Config, w Weights, o DecodeOptions) (Decoder, error)
	// PlanTrainer computes what a trainer would hold, without making one.
	PlanTrainer(cfg model.Config, o TrainOptions) (Memory, error)
	Close() error
}

// ErrAbsent is what an engine that only plans says of everything else.
var ErrAbsent = errors.New("the device is not here")

// CheckTokens reports the first token id that the model has no row for.
func CheckTokens(tokens []int32, vocab int) error {
	for i, t := range tokens {
		if t < 0 || int(t) >= vocab {
			return fmt.Errorf("token %d: id %d is outside the vocabulary of %d", i, t, vocab)
		}
	}
	return nil
}
