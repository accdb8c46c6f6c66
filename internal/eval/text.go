package eval

import (
	"os"
	"path/filepath"
	"strings"

	"mlkv/internal/data"
	"mlkv/internal/data/source"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// heldoutText reads held-out text as sequences for a model that reads window
// tokens: packed shards row by row, any other text as one stream of documents,
// each followed by the token that ends it.
func heldoutText(paths []string, tok *tokenizer.Tokenizer, window int) ([]sequence, error) {
	var out []sequence
	var texts []string
	for _, path := range paths {
		shards, err := shardsOf(path)
		if err != nil {
			return nil, err
		}
		for _, shard := range shards {
			seqs, err := shardRows(shard, tok, window)
			if err != nil {
				return nil, err
			}
			out = append(out, seqs...)
		}
		if shards == nil {
			texts = append(texts, path)
		}
	}
	if len(texts) > 0 {
		stream, err := documents(texts, tok)
		if err != nil {
			return nil, err
		}
		out = append(out, windows(stream, window)...)
	}
	if len(out) == 0 {
		return nil, ui.Inputf("held-out text: expected at least two tokens in %s, found fewer", strings.Join(paths, ", "))
	}
	return out, nil
}

// shardsOf lists the packed shards that a path stands for: the file itself or
// those in the folder, in the order of their names. It is nil for other text.
func shardsOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, ui.Inputf("held-out text: %w", err)
	}
	if info.IsDir() {
		return filepath.Glob(filepath.Join(path, "*"+data.ShardSuffix))
	}
	if strings.HasSuffix(path, data.ShardSuffix) {
		return []string{path}, nil
	}
	return nil, nil
}

func shardRows(path string, tok *tokenizer.Tokenizer, window int) ([]sequence, error) {
	shard, err := data.OpenShard(path)
	if err != nil {
		return nil, err
	}
	defer shard.Close()
	if err := shard.CheckTokenizer(tok.Checksum()); err != nil {
		return nil, err
	}
	var out []sequence
	for i := range shard.Rows {
		row, err := shard.Row(i)
		if err != nil {
			return nil, err
		}
		tokens := make([]int32, len(row))
		for k, t := range row {
			tokens[k] = int32(t)
		}
		out = append(out, windows(tokens, window)...)
	}
	return out, nil
}

// documents encodes every document of the inputs into one stream, each ended by the
// token that ends documents.
func documents(paths []string, tok *tokenizer.Tokenizer) ([]int32, error) {
	inputs, err := source.Find(paths, source.Options{})
	if err != nil {
		return nil, err
	}
	var stream []int32
	for _, in := range inputs {
		for document, err := range in.Encoded(tok.Encode) {
			if err != nil {
				return nil, ui.Inputf("held-out text: %w", err)
			}
			stream = append(stream, document...)
			if n := len(stream); n > 0 && stream[n-1] != tok.EOS() {
				stream = append(stream, tok.EOS())
			}
		}
	}
	return stream, nil
}
