// Package inspect says what packed shards hold and checks every row.
package inspect

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// Options of an inspection.
type Options struct {
	Paths     []string // shards and folders of shards
	Tokenizer string   // to decode samples; none are shown without it
	Samples   int      // rows to decode, spread evenly over all
	SkipCheck bool     // read headers only
	JSON      bool
}

// Report is what an inspection finds.
type Report struct {
	Shards []Shard `json:"shards"`
	Rows   int64   `json:"rows"`
	Tokens int64   `json:"tokens"` // used tokens of all rows
	// What follows is there after the check of all rows.
	EndOfText int64    `json:"end_of_text,omitempty"` // tokens with id 0
	RowLength []Bucket `json:"row_lengths,omitempty"` // rows by used tokens
	// Stretches counts what lies between end-of-text tokens within a row, by tokens.
	Stretches []Bucket `json:"stretches,omitempty"`
	Samples   []Sample `json:"samples,omitempty"`
}

// Shard is the header of one shard.
type Shard struct {
	Path      string       `json:"path"`
	Packing   data.Packing `json:"packing"`
	RowLength int          `json:"row_length"`
	Rows      int64        `json:"rows"`
	Tokens    int64        `json:"tokens"`
	Set       string       `json:"set,omitempty"`
	VocabSize int          `json:"vocab_size"`
	Tokenizer string       `json:"tokenizer"`
	SHA256    string       `json:"sha256"`
}

// Bucket counts lengths from From to To.
type Bucket struct {
	From  int   `json:"from"`
	To    int   `json:"to"`
	Count int64 `json:"count"`
}

// Sample is a decoded row.
type Sample struct {
	Shard string `json:"shard"`
	Row   int64  `json:"row"`
	Text  string `json:"text"`
}

// Run inspects and checks shards. A damaged one is an error that carries
// ui.ExitInput.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	shards, err := data.OpenShards(o.Paths)
	if err != nil {
		return err
	}
	defer func() {
		for _, shard := range shards {
			shard.Close()
		}
	}()
	r := describe(shards)
	if !o.SkipCheck {
		if err := r.check(ctx, shards, s); err != nil {
			return err
		}
	}
	if o.Tokenizer != "" && o.Samples > 0 {
		if err := r.sample(shards, o); err != nil {
			return err
		}
	}
	if o.JSON {
		e := json.NewEncoder(s.Out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.write(s, o)
}

func describe(shards []*data.Shard) *Report {
	r := &Report{}
	for _, s := range shards {
		r.Shards = append(r.Shards, Shard{
			Path: s.Path(), Packing: s.Packing, RowLength: s.RowLength, Rows: s.Rows, Tokens: s.Tokens, Set: s.Set,
			VocabSize: s.VocabSize, Tokenizer: hex.EncodeToString(s.Tokenizer[:]), SHA256: hex.EncodeToString(s.Payload[:]),
		})
		r.Rows += s.Rows
		r.Tokens += s.Tokens
	}
	return r
}

// check reads every row of every shard and fills the histograms.
func (r *Report) check(ctx context.Context, shards []*data.Shard, s ui.Streams) error {
	progress := ui.NewProgress(s, r.Rows, "check", ui.Count("rows"))
	defer progress.Done()
	rows, stretches := histogram{}, histogram{}
	for _, shard := range shards {
		if err := shard.Check(); err != nil {
			return err
		}
		for i := range shard.Rows {
			row, err := shard.Row(i)
			if err != nil {
				return err
			}
			rows.add(len(row))
			r.EndOfText += stretches.addStretches(row)
		}
		progress.Add(shard.Rows)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	r.RowLength, r.Stretches = rows.buckets(), stretches.buckets()
	return nil
}

// histogram counts lengths: bucket b holds those of b bits.
type histogram [32]int64

func (h *histogram) add(n int) { h[bits.Len(uint(n))]++ }

// addStretches counts the stretches of a row and returns its end-of-text tokens.
func (h *histogram) addStretches(row []uint16) (ends int64) {
	from := 0
	for i, id := range row {
		if id == 0 {
			ends++
			h.add(i - from)
			from = i + 1
		}
	}
	if from < len(row) {
		h.add(len(row) - from)
	}
	return ends
}

func (h *histogram) buckets() (list []Bucket) {
	for b, n := range h {
		if n > 0 {
			list = append(list, Bucket{1 << b >> 1, 1<<b - 1, n})
		}
	}
	return list
}

// sample decodes rows that lie evenly apart.
func (r *Report) sample(shards []*data.Shard, o Options) error {
	tok, err := tokenizer.Load(o.Tokenizer)
	if err != nil {
		return err
	}
	n := min(int64(o.Samples), r.Rows)
	for k := range n {
		i := k * r.Rows / n
		shard := 0
		for i >= shards[shard].Rows {
			i -= shards[shard].Rows
			shard++
		}
		if err := shards[shard].CheckTokenizer(tok.Checksum()); err != nil {
			return err
		}
		row, err := shards[shard].Row(i)
		if err != nil {
			return err
		}
		ids := make([]int32, len(row))
		for j, id := range row {
			ids[j] = int32(id)
		}
		r.Samples = append(r.Samples, Sample{shards[shard].Path(), i, tok.Decode(ids)})
	}
	return nil
}

// write prints the report for a reader.
func (r *Report) write(s ui.Streams, o Options) error {
	table := ui.NewTable("shard", "set", "packing", "row length", "rows", "tokens", "used", "vocabulary", "tokenizer")
	for _, x := range r.Shards {
		used := float64(x.Tokens) / float64(x.Rows*int64(x.RowLength+1))
		table.Row(x.Path, x.Set, x.Packing, x.RowLength, ui.Integer(x.Rows), ui.Integer(x.Tokens), ui.Fixed(100*used, 1), x.VocabSize, x.Tokenizer[:12])
	}
	if err := table.Text(s.Out); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s rows, %s tokens\n", ui.FormatInt(r.Rows), ui.FormatInt(r.Tokens))
	if !o.SkipCheck {
		fmt.Fprintf(&b, "every row checked: lengths, ids, padding and checksums are right\n")
		fmt.Fprintf(&b, "%s end-of-text tokens\n", ui.FormatInt(r.EndOfText))
		histogramText(&b, "tokens used by a row", r.RowLength)
		histogramText(&b, "tokens between end-of-text tokens", r.Stretches)
	}
	for _, x := range r.Samples {
		fmt.Fprintf(&b, "\n%s, row %d:\n%s\n", x.Shard, x.Row, shorten(x.Text))
	}
	_, err := s.Out.Write([]byte(b.String()))
	return err
}

// histogramText draws buckets as bars.
func histogramText(b *strings.Builder, title string, buckets []Bucket) {
	var most int64
	for _, x := range buckets {
		most = max(most, x.Count)
	}
	fmt.Fprintf(b, "\n%s\n", title)
	for _, x := range buckets {
		fmt.Fprintf(b, "%8d-%-8d %12s %s\n", x.From, x.To, ui.FormatInt(x.Count), strings.Repeat("#", int(40*x.Count/most)))
	}
}

// shorten keeps the beginning and the end of a long text.
func shorten(text string) string {
	const keep = 300
	if len(text) <= 2*keep {
		return text
	}
	return strings.ToValidUTF8(text[:keep], "") + "\n[...]\n" + strings.ToValidUTF8(text[len(text)-keep:], "")
}
