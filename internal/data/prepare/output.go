package prepare

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mlkv/internal/data"
)

// outputKey tells apart what is packed separately.
type outputKey struct {
	HeldOut bool   `json:"held_out"`
	Set     string `json:"set"` // with SplitSets, else empty
}

// output is a packer and the shards that it fills.
type output struct {
	key       outputKey
	folder    string // of the shards, as it is now
	header    data.Header
	shardRows int64
	packer    data.Packer
	writer    *data.Writer // nil between shards
	shards    []data.ShardInfo
}

// outputState is an output in the journal.
type outputState struct {
	Key    outputKey         `json:"key"`
	Packer data.PackerState  `json:"packer"`
	Writer *data.WriterState `json:"writer,omitempty"`
	Shards []data.ShardInfo  `json:"shards"`
}

// newOutput makes an output below the work folder.
func (p *packing) newOutput(key outputKey) (*output, error) {
	o := &output{key: key, folder: p.folder, header: p.header, shardRows: p.o.shardRows()}
	if key.HeldOut {
		o.folder = filepath.Join(p.folder, HeldoutFolder)
	}
	o.header.Set = key.Set
	if err := os.MkdirAll(o.folder, 0o777); err != nil {
		return nil, err
	}
	o.packer = data.NewPacker(p.o.Packing, p.o.RowLength, p.eos, o.row)
	p.outputs[key] = o
	return o, nil
}

// row writes a row and finishes the shard that it fills.
func (o *output) row(row []uint16) error {
	if o.writer == nil {
		w, err := data.NewWriter(filepath.Join(o.folder, o.shardName()), o.header)
		if err != nil {
			return err
		}
		o.writer = w
	}
	if err := o.writer.WriteRow(row); err != nil {
		return err
	}
	if o.writer.Rows() < o.shardRows {
		return nil
	}
	return o.finishShard()
}

// shardName is "shard-00000.rows", or with a set "pile-cc-00000.rows".
func (o *output) shardName() string {
	name := "shard"
	if o.key.Set != "" {
		name = strings.Trim(strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
				return r
			case r >= 'A' && r <= 'Z':
				return r + 'a' - 'A'
			}
			return '-'
		}, o.key.Set), "-")
		name = fmt.Sprintf("set-%s-%x", name, crc(o.key.Set))
	}
	return fmt.Sprintf("%s-%05d%s", name, len(o.shards), data.ShardSuffix)
}

func (o *output) finishShard() error {
	name := o.shardName()
	h, err := o.writer.Finish()
	o.writer = nil
	if err != nil {
		return err
	}
	o.shards = append(o.shards, data.ShardInfo{
		File: name, Rows: h.Rows, Tokens: h.Tokens, SHA256: hex.EncodeToString(h.Payload[:]), Set: h.Set,
	})
	return nil
}

// finish packs what is left and closes the last shard.
func (o *output) finish() error {
	if err := o.packer.Finish(); err != nil || o.writer == nil {
		return err
	}
	return o.finishShard()
}

// save writes the output through to the disk and returns its state.
func (o *output) save() (outputState, error) {
	s := outputState{Key: o.key, Packer: o.packer.Save(), Shards: slices.Clone(o.shards)}
	if o.writer != nil {
		w, err := o.writer.Save()
		if err != nil {
			return s, err
		}
		s.Writer = &w
	}
	return s, nil
}

// restore takes an output back from the journal.
func (p *packing) restore(s outputState) error {
	o, err := p.newOutput(s.Key)
	if err != nil {
		return err
	}
	o.packer.Restore(s.Packer)
	o.shards = s.Shards
	if s.Writer != nil {
		o.writer, err = data.ResumeWriter(filepath.Join(o.folder, o.shardName()), o.header, *s.Writer)
	}
	return err
}
