package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"mlkv/internal/data"
	"mlkv/internal/ui"
)

// writeMegatron writes sequences as a pair whose documents begin at the given
// sequences, with the token file in parts.
func writeMegatron(t testing.TB, stem string, sequences [][]uint16, documents []int64, parts int) {
	t.Helper()
	le := binary.LittleEndian
	index := []byte(indexMagic)
	index = le.AppendUint64(index, 1)
	index = append(index, 8)
	index = le.AppendUint64(index, uint64(len(sequences)))
	index = le.AppendUint64(index, uint64(len(documents)))
	var bin []byte
	for _, s := range sequences {
		index = le.AppendUint32(index, uint32(len(s)))
	}
	for _, s := range sequences {
		index = le.AppendUint64(index, uint64(len(bin)))
		for _, id := range s {
			bin = le.AppendUint16(bin, id)
		}
	}
	for _, d := range documents {
		index = le.AppendUint64(index, uint64(d))
	}
	write(t, stem+".idx", index)
	if parts == 1 {
		write(t, stem+".bin", bin)
		return
	}
	for k := range parts { // bounds fall within tokens
		write(t, fmt.Sprintf("%s-%05d-of-%05d.bin", stem, k, parts), bin[k*len(bin)/parts:(k+1)*len(bin)/parts])
	}
}

// sequences makes n sequences of several lengths and the bounds of documents of
// three.
func sequences(n int) (list [][]uint16, documents []int64) {
	for i := range n {
		s := make([]uint16, i*37%2049)
		for k := range s {
			s[k] = uint16(i*31 + k)
		}
		list = append(list, s)
		if i%3 == 0 {
			documents = append(documents, int64(i))
		}
	}
	return list, append(documents, int64(n))
}

func TestMegatron(t *testing.T) {
	dir := t.TempDir()
	list, documents := sequences(2000)
	for _, parts := range []int{1, 20} {
		stem := filepath.Join(dir, fmt.Sprint("document", parts))
		writeMegatron(t, stem, list, documents, parts)
		got, errs := readAll(t, []string{stem + ".idx"}, Options{})
		if len(errs) > 0 || len(got) != len(list) {
			t.Fatalf("%d parts: %d sequences, errors %v", parts, len(got), errs)
		}
		for i, d := range got {
			if !slices.Equal(d.tokens, list[i]) || d.more != (i%3 < 2 && i < 1999) {
				t.Fatalf("%d parts: sequence %d: %d tokens, more %v", parts, i, len(d.tokens), d.more)
			}
		}
	}
}

// TestMegatronFixture reads a real pair and compares it with what its index
// says and with the token file read as it is.
func TestMegatronFixture(t *testing.T) {
	stem := filepath.Join("..", "..", "..", "..", "shared", "data", "pile", "megatron-openwebtext", "meg-gpt2-openwebtext_text_document")
	bin, err := os.ReadFile(stem + ".bin")
	if err != nil {
		t.Skipf("needs the shared data: %v", err)
	}
	got, errs := readAll(t, []string{stem + ".idx"}, Options{})
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	var tokens []byte
	for _, d := range got {
		for _, id := range d.tokens {
			tokens = binary.LittleEndian.AppendUint16(tokens, id)
		}
	}
	if len(got) != 1000 || len(tokens)/2 != 1361845 || !bytes.Equal(tokens, bin) {
		t.Errorf("%d sequences of %d tokens, want 1000 of 1361845", len(got), len(tokens)/2)
	}
}

func TestMegatronRefuses(t *testing.T) {
	list, documents := sequences(50)
	le := binary.LittleEndian
	offsets := indexHeader + 4*50
	for name, c := range map[string]struct {
		change  func(index, bin []byte) ([]byte, []byte)
		message string
	}{
		"magic":          {func(i, b []byte) ([]byte, []byte) { i[0] = 'X'; return i, b }, "magic"},
		"version":        {func(i, b []byte) ([]byte, []byte) { i[9] = 2; return i, b }, "version: expected 1, found 2"},
		"dtype":          {func(i, b []byte) ([]byte, []byte) { i[17] = 7; return i, b }, "dtype"},
		"short":          {func(i, b []byte) ([]byte, []byte) { return i[:20], b }, "header of 34 bytes, found 20"},
		"sequences":      {func(i, b []byte) ([]byte, []byte) { i[18]++; return i, b }, "51 sequences"},
		"many sequences": {func(i, b []byte) ([]byte, []byte) { le.PutUint64(i[18:], 1<<62); return i, b }, "do not make a file"},
		"cut index":      {func(i, b []byte) ([]byte, []byte) { return i[:len(i)-1], b }, "do not make a file"},
		"length":         {func(i, b []byte) ([]byte, []byte) { le.PutUint32(i[indexHeader+40:], 5); return i, b }, "sequence 12: expected offset"},
		"negative":       {func(i, b []byte) ([]byte, []byte) { le.PutUint32(i[indexHeader+40:], 1<<31); return i, b }, "sequence 11"},
		"offset":         {func(i, b []byte) ([]byte, []byte) { i[offsets+80]++; return i, b }, "sequence 11: expected offset"},
		"cut bin":        {func(i, b []byte) ([]byte, []byte) { return i, b[:len(b)-2] }, "the .bin has"},
		"long bin":       {func(i, b []byte) ([]byte, []byte) { return i, append(b, 0) }, "the .bin has"},
		"documents":      {func(i, b []byte) ([]byte, []byte) { le.PutUint64(i[len(i)-8:], 70); return i, b }, "document 17"},
	} {
		t.Run(name, func(t *testing.T) {
			stem := filepath.Join(t.TempDir(), "a")
			writeMegatron(t, stem, list, documents, 1)
			index, _ := os.ReadFile(stem + ".idx")
			bin, _ := os.ReadFile(stem + ".bin")
			index, bin = c.change(index, bin)
			write(t, stem+".idx", index)
			write(t, stem+".bin", bin)
			_, errs := readAll(t, []string{stem + ".idx"}, Options{})
			var damage *Damage
			if len(errs) != 1 || !errors.As(errs[0], &damage) || !strings.Contains(errs[0].Error(), c.message) || !strings.Contains(errs[0].Error(), stem) {
				t.Errorf("errors %v, want damage that says %q", errs, c.message)
			}
		})
	}
	stem := filepath.Join(t.TempDir(), "a")
	writeMegatron(t, stem, list, documents, 20)
	os.Remove(stem + "-00007-of-00020.bin")
	if _, errs := readAll(t, []string{stem + ".idx"}, Options{}); len(errs) != 1 || !strings.Contains(errs[0].Error(), "part is missing") {
		t.Errorf("a missing part: %v", errs)
	}
}

func TestDecodeTokens(t *testing.T) {
	for dtype, c := range map[byte]struct {
		bytes []byte
		want  []uint16
	}{
		1: {[]byte{1, 255}, []uint16{1, 255}}, 3: {[]byte{1, 2}, []uint16{513}}, 8: {[]byte{255, 255}, []uint16{65535}},
		4: {[]byte{255, 255, 0, 0}, []uint16{65535}}, 5: {[]byte{7, 0, 0, 0, 0, 0, 0, 0}, []uint16{7}},
		2: {[]byte{255}, nil}, 9: {nil, nil},
	} {
		if dtype == 9 {
			continue
		}
		got, err := decodeTokens(c.bytes, dtype)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("dtype %d: %v, %v; want %v", dtype, got, err, c.want)
		}
	}
	if _, err := decodeTokens([]byte{0, 0, 1, 0}, 4); err == nil {
		t.Error("the id 65536 was accepted")
	}
}

type pileRow struct {
	Text string `parquet:"text"`
	Meta struct {
		Set string `parquet:"pile_set_name"`
	} `parquet:"meta"`
}

type idsRow struct {
	IDs   []int64 `parquet:"input_ids,list"`
	Other string  `parquet:"other"`
}

func writeParquet[T any](t testing.TB, path string, rows []T, groupRows int, options ...parquet.WriterOption) string {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b, append(options, parquet.MaxRowsPerRowGroup(int64(groupRows)), parquet.PageBufferSize(4096))...)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return write(t, path, b.Bytes())
}

func TestParquet(t *testing.T) {
	dir := t.TempDir()
	_, want := pileLines(t, 1500)
	rows := make([]pileRow, len(want))
	for i, d := range want {
		rows[i].Text, rows[i].Meta.Set = d.text, d.set
	}
	for name, options := range map[string][]parquet.WriterOption{
		"plain": nil, "snappy": {parquet.Compression(&parquet.Snappy)}, "zstd": {parquet.Compression(&parquet.Zstd)}, "v1": {parquet.DataPageVersion(1)},
	} {
		path := writeParquet(t, filepath.Join(dir, name+".parquet"), rows, 400, options...)
		got, errs := readAll(t, []string{path}, Options{})
		if len(errs) > 0 {
			t.Errorf("%s: %v", name, errs[0])
		}
		if !slices.EqualFunc(got, want, func(a, b kept) bool { return a.text == b.text && a.set == b.set }) {
			t.Errorf("%s: %d documents differ from the %d written", name, len(got), len(want))
		}
	}
}

func TestParquetTokens(t *testing.T) {
	list, _ := sequences(1500)
	rows := make([]idsRow, len(list))
	for i, s := range list {
		for _, id := range s {
			rows[i].IDs = append(rows[i].IDs, int64(id))
		}
	}
	rows[7].IDs = append(rows[7].IDs, 70000)
	path := writeParquet(t, filepath.Join(t.TempDir(), "a.parquet"), rows, 400, parquet.Compression(&parquet.Snappy))
	got, errs := readAll(t, []string{path}, Options{})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "row 8: token 259: expected an id of 0 to 65535, found 70000") {
		t.Errorf("errors %v, want one in row 8", errs)
	}
	want := slices.Delete(slices.Clone(list), 7, 8)
	if !slices.EqualFunc(got, want, func(a kept, b []uint16) bool { return slices.Equal(a.tokens, b) }) {
		t.Errorf("%d sequences differ from the %d written", len(got), len(want))
	}
}

func TestParquetRefuses(t *testing.T) {
	dir := t.TempDir()
	other := writeParquet(t, filepath.Join(dir, "other.parquet"), []struct{ Content string }{{"a"}}, 10)
	good := writeParquet(t, filepath.Join(dir, "good.parquet"), make([]pileRow, 500), 100, parquet.Compression(&parquet.Snappy))
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	broken := slices.Clone(b)
	for i := 4; i < 200; i++ {
		broken[i] ^= 0x55
	}
	for path, message := range map[string]string{
		other: "found the columns Content",
		write(t, filepath.Join(dir, "cut.parquet"), b[:len(b)/2]):   "parquet",
		write(t, filepath.Join(dir, "empty.parquet"), nil):          "parquet",
		write(t, filepath.Join(dir, "broken.parquet"), broken):      "parquet",
		write(t, filepath.Join(dir, "text.parquet"), []byte("abc")): "parquet",
	} {
		_, errs := readAll(t, []string{path}, Options{})
		var damage *Damage
		if len(errs) != 1 || !errors.As(errs[0], &damage) || !strings.Contains(errs[0].Error(), message) || !strings.Contains(errs[0].Error(), path) {
			t.Errorf("%s: errors %v, want damage that says %q", path, errs, message)
		}
	}
	type nullable struct {
		Text *string `parquet:"text"`
	}
	text, invalid := "a", "\xff"
	path := writeParquet(t, filepath.Join(dir, "null.parquet"), []nullable{{&text}, {nil}, {&invalid}, {&text}}, 10)
	got, errs := readAll(t, []string{path}, Options{})
	if len(got) != 2 || len(errs) != 2 || !strings.Contains(errs[0].Error(), "row 2: expected a value") || !strings.Contains(errs[1].Error(), "row 3: invalid UTF-8") {
		t.Errorf("%d documents, errors %v", len(got), errs)
	}
}

// writeRows writes a shard.
func writeRows(t testing.TB, path string, h data.Header, rows [][]uint16) {
	t.Helper()
	w, err := data.NewWriter(path, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if err := w.WriteRow(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
}

func TestPacked(t *testing.T) {
	h := data.Header{RowLength: 2, Packing: data.Stream, VocabSize: 100, Tokenizer: [32]byte{1}}
	dir := t.TempDir()
	writeRows(t, filepath.Join(dir, "a.rows"), h, [][]uint16{{1, 2, 3}, {3, 4, 5}})
	writeRows(t, filepath.Join(dir, "b.rows"), h, [][]uint16{{5, 6, 7}, {7, 8}})
	m := data.Manifest{Format: 1, Packing: data.Stream}
	for _, name := range []string{"a.rows", "b.rows"} {
		s, err := data.OpenShard(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		m.Shards = append(m.Shards, data.ShardInfo{File: name, SHA256: fmt.Sprintf("%x", s.Payload)})
		s.Close()
	}
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, errs := readAll(t, []string{dir}, Options{})
	var joined []uint16
	for i, d := range got {
		joined = append(joined, d.tokens...)
		if d.more != (i < 3) {
			t.Errorf("row %d: more is %v", i, d.more)
		}
	}
	if len(errs) > 0 || !slices.Equal(joined, []uint16{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("tokens %v, errors %v", joined, errs)
	}
	got, _ = readAll(t, []string{filepath.Join(dir, "b.rows")}, Options{WholeRows: true})
	if len(got) != 2 || !slices.Equal(got[1].tokens, []uint16{7, 8}) || got[0].more {
		t.Errorf("whole rows: %v", got)
	}
	if _, err := Find([]string{dir}, Options{Tokenizer: strings.Repeat("00", 32)}); ui.ExitCode(err) != ui.ExitInput || !strings.Contains(err.Error(), "another tokenizer") {
		t.Errorf("another tokenizer: %v", err)
	}
}

// fuzzInput reads a file of fuzzed content to its end.
func fuzzInput(t *testing.T, path string, files map[string][]byte) {
	for name, b := range files {
		write(t, filepath.Join(filepath.Dir(path), name), b)
	}
	inputs, err := Find([]string{path}, Options{})
	if err != nil {
		return
	}
	src, err := inputs[0].Open()
	if err != nil {
		return
	}
	defer src.Close()
	for {
		block, err := src.Next()
		if err != nil {
			if err != io.EOF && !strings.HasPrefix(err.Error(), path) {
				t.Fatalf("error %v does not name the file", err)
			}
			return
		}
		for range block.Documents() {
		}
	}
}

func FuzzMegatron(f *testing.F) {
	stem := filepath.Join(f.TempDir(), "a")
	list, documents := sequences(5)
	writeMegatron(f, stem, list, documents, 1)
	index, _ := os.ReadFile(stem + ".idx")
	bin, _ := os.ReadFile(stem + ".bin")
	f.Add(index, bin)
	f.Fuzz(func(t *testing.T, index, bin []byte) {
		fuzzInput(t, filepath.Join(t.TempDir(), "a.idx"), map[string][]byte{"a.idx": index, "a.bin": bin})
	})
}

func FuzzParquet(f *testing.F) {
	dir := f.TempDir()
	for _, path := range []string{
		writeParquet(f, filepath.Join(dir, "a.parquet"), make([]pileRow, 3), 2),
		writeParquet(f, filepath.Join(dir, "b.parquet"), []idsRow{{IDs: []int64{1, 2}}, {}}, 2, parquet.Compression(&parquet.Snappy)),
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzInput(t, filepath.Join(t.TempDir(), "a.parquet"), map[string][]byte{"a.parquet": b})
	})
}

func FuzzCompressed(f *testing.F) {
	lines := []byte("{\"text\": \"a\"}\n{\"text\": \"b\"}\n")
	f.Add(compressZstd(f, 1<<20, lines, lines))
	f.Add(compressGzip(f, lines))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzInput(t, filepath.Join(t.TempDir(), "a.jsonl.zst"), map[string][]byte{"a.jsonl.zst": b})
		fuzzInput(t, filepath.Join(t.TempDir(), "a.txt.gz"), map[string][]byte{"a.txt.gz": b})
	})
}

func FuzzText(f *testing.F) {
	f.Add([]byte("a b\n\xff c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzInput(t, filepath.Join(t.TempDir(), "a.txt"), map[string][]byte{"a.txt": b})
	})
}
