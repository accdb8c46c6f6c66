package prepare

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/data/source"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// packing takes results in the order of their blocks and writes shards.
type packing struct {
	o       *Options
	inputs  []source.Input
	folder  string // to write into
	header  data.Header
	eos     uint16
	outputs map[outputKey]*output
	seen    *seenSet // nil without Dedup
	progressState
}

// progressState is what the journal holds of a packing, beside its outputs.
type progressState struct {
	Next    place                    `json:"next"` // the first block that is not packed
	Records int64                    `json:"records"`
	Taken   int64                    `json:"taken"` // documents, for Limit
	Dropped data.Dropped             `json:"dropped"`
	Counts  [2]map[string]data.Count `json:"counts"` // by set: of the training part, of the held-out one
	Sources []data.SourceInfo        `json:"sources"`
	// Open is the output of a document whose last part has not come, OpenDrop
	// says that its parts are dropped.
	Open     *outputKey `json:"open,omitempty"`
	OpenDrop bool       `json:"open_drop,omitempty"`
}

// maxExamples is how many dropped records are named.
const maxExamples = 20

// errLimit says that Limit documents have been taken.
var errLimit = errors.New("limit reached")

func newPacking(o *Options, tok *tokenizer.Tokenizer, inputs []source.Input, folder string) (*packing, error) {
	h := data.Header{RowLength: o.RowLength, Packing: o.Packing, VocabSize: tok.VocabSize()}
	if err := h.SetTokenizer(tok.Checksum()); err != nil {
		return nil, err
	}
	p := &packing{o: o, inputs: inputs, folder: folder, header: h, eos: uint16(tok.EOS()), outputs: map[outputKey]*output{}}
	p.Counts = [2]map[string]data.Count{{}, {}}
	for _, in := range inputs {
		p.Sources = append(p.Sources, data.SourceInfo{Path: in.Path, Bytes: in.Bytes})
	}
	if o.Dedup {
		p.seen = newSeenSet(folder)
	}
	return p, nil
}

// take packs the result of a task. It returns errLimit when no more is wanted.
func (p *packing) take(t *task, r *result) error {
	if err := p.note(t, r); err != nil {
		return err
	}
	tokens := r.tokens
	for _, d := range r.documents {
		err := p.document(d, tokens[:d.tokens])
		if errors.Is(err, errLimit) {
			return err
		}
		if err != nil {
			return fmt.Errorf("prepare: %s: %w", p.inputs[t.Input].Path, err)
		}
		tokens = tokens[d.tokens:]
	}
	p.Next = place{t.Input, t.Block + 1}
	if t.block == nil {
		p.Sources[t.Input].SHA256 = t.sum
		p.Next = place{t.Input + 1, 0}
	}
	return nil
}

// note counts what a block dropped and fails where that is too much.
func (p *packing) note(t *task, r *result) error {
	p.Records += r.records
	p.Sources[t.Input].Records += r.records
	p.Dropped.Bad += r.dropped.Bad
	p.Dropped.Skipped += r.dropped.Skipped
	p.Dropped.Filtered += r.dropped.Filtered
	p.Dropped.Sampled += r.dropped.Sampled
	notes := r.notes
	for _, damage := range []error{r.damage, t.damage} {
		if damage != nil {
			p.Dropped.Damaged++
			notes = append(notes, damage)
			if p.Dropped.Damaged > int64(p.o.MaxDamage) {
				return ui.Inputf("prepare: damaged input: %w (to use what can be read, pass --max-damage %d)", damage, p.Dropped.Damaged)
			}
		}
	}
	for _, n := range notes {
		if len(p.Dropped.Examples) < maxExamples {
			p.Dropped.Examples = append(p.Dropped.Examples, n.Error())
		}
	}
	const settled = 10000 // records from which on a share of bad ones says something
	if p.Records >= settled {
		return p.checkBad()
	}
	return nil
}

// checkBad fails where more records are bad than MaxBad allows.
func (p *packing) checkBad() error {
	if float64(p.Dropped.Bad) <= p.o.MaxBad*float64(p.Records) {
		return nil
	}
	return ui.Inputf("prepare: %d of %d records cannot be used, expected at most %g%% (--max-bad):\n  %s",
		p.Dropped.Bad, p.Records, 100*p.o.MaxBad, strings.Join(p.Dropped.Examples, "\n  "))
}

// document packs a document, or a part of one.
func (p *packing) document(d document, tokens []uint16) error {
	key, ok := p.open(d)
	if !ok {
		out, err := p.begin(d)
		if err != nil {
			return err
		}
		key = out
	}
	if d.more {
		p.Open, p.OpenDrop = key, key == nil
	} else {
		p.Open, p.OpenDrop = nil, false
	}
	if key == nil {
		return nil
	}
	p.count(*key, d)
	out := p.outputs[*key]
	if out == nil {
		var err error
		if out, err = p.newOutput(*key); err != nil {
			return err
		}
	}
	return out.packer.Add(tokens, d.more)
}

// open returns the output of the document that d continues; ok is false where d
// begins one.
func (p *packing) open(d document) (key *outputKey, ok bool) {
	if !d.part || p.Open == nil && !p.OpenDrop {
		return nil, false
	}
	return p.Open, true
}

// begin decides where a document goes; nil drops it.
func (p *packing) begin(d document) (*outputKey, error) {
	if p.o.Limit > 0 && p.Taken >= p.o.Limit {
		return nil, errLimit
	}
	if p.seen != nil && !d.part {
		fresh, err := p.seen.add(d.hash)
		if err != nil {
			return nil, err
		}
		if !fresh {
			p.Dropped.Duplicates++
			return nil, nil
		}
	}
	p.Taken++
	key := outputKey{HeldOut: d.heldOut}
	if p.o.SplitSets {
		key.Set = d.set
	}
	return &key, nil
}

func (p *packing) count(key outputKey, d document) {
	part := 0
	if key.HeldOut {
		part = 1
	}
	c := p.Counts[part][d.set]
	c.Tokens += int64(d.tokens)
	c.Bytes += d.bytes
	if !d.more {
		c.Documents++
		if key.HeldOut {
			p.Dropped.HeldOut++
		}
	}
	p.Counts[part][d.set] = c
}

// finish packs what is left and closes all shards.
func (p *packing) finish() error {
	if err := p.checkBad(); err != nil {
		return err
	}
	for _, key := range p.sortedKeys() {
		if err := p.outputs[key].finish(); err != nil {
			return err
		}
	}
	return nil
}

// close closes the files of shards that are being written.
func (p *packing) close() {
	for _, o := range p.outputs {
		if o.writer != nil {
			o.writer.Close()
		}
	}
	if p.seen != nil {
		p.seen.close()
	}
}

func (p *packing) sortedKeys() []outputKey {
	keys := make([]outputKey, 0, len(p.outputs))
	for k := range p.outputs {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b outputKey) int {
		if a.HeldOut != b.HeldOut {
			if a.HeldOut {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Set, b.Set)
	})
	return keys
}

// crc tells apart sets whose names are written alike in file names.
func crc(s string) uint32 { return crc32.ChecksumIEEE([]byte(s)) }

// writeManifests describes the parts that have shards and returns the manifest
// of the training part.
func (p *packing) writeManifests(fill func(*data.Manifest)) (*data.Manifest, error) {
	var training *data.Manifest
	for _, heldOut := range []bool{false, true} {
		m, folder := p.manifest(heldOut)
		fill(m)
		if len(m.Shards) == 0 && heldOut {
			continue
		}
		if len(m.Shards) == 0 {
			return nil, ui.Inputf("prepare: no text left: %d records read, %s", p.Records, describeDropped(p.Dropped))
		}
		if err := m.Write(folder); err != nil {
			return nil, err
		}
		if !heldOut {
			training = m
		}
	}
	return training, nil
}

// manifest gathers one part.
func (p *packing) manifest(heldOut bool) (*data.Manifest, string) {
	part, folder := 0, p.folder
	if heldOut {
		part, folder = 1, p.heldoutFolder()
	}
	m := &data.Manifest{Format: 1, RowLength: p.o.RowLength, Packing: p.o.Packing, Sets: p.Counts[part], Sources: p.Sources, Dropped: p.Dropped}
	for _, c := range m.Sets {
		m.Count.Add(c)
	}
	for _, key := range p.sortedKeys() {
		if key.HeldOut != heldOut {
			continue
		}
		for _, s := range p.outputs[key].shards {
			m.Rows += s.Rows
			m.Shards = append(m.Shards, s)
		}
	}
	return m, folder
}

// describeDropped lists what was dropped, for messages.
func describeDropped(d data.Dropped) string {
	var parts []string
	for _, x := range []struct {
		n    int64
		name string
	}{
		{d.Bad, "bad"}, {d.Damaged, "damaged"}, {d.Skipped, "skipped"}, {d.Filtered, "of other sets"},
		{d.Sampled, "not sampled"}, {d.Duplicates, "duplicates"}, {d.HeldOut, "held out"},
	} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.name))
		}
	}
	if len(parts) == 0 {
		return "none dropped"
	}
	return strings.Join(parts, ", ")
}
