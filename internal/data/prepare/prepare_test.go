package prepare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"mlkv/internal/data"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// tokenizerFile is a small tokenizer.json in the test's folder.
func tokenizerFile(t testing.TB) (string, *tokenizer.Tokenizer) {
	t.Helper()
	file := trained()
	path := filepath.Join(t.TempDir(), tokenizer.FileName)
	if err := os.WriteFile(path, file, 0o666); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, tok
}

var trained = sync.OnceValue(func() []byte {
	file, err := tokenizer.Train(func(yield func(string, error) bool) {
		yield(strings.Repeat("the words of a document, some more of them and a few others\n", 50), nil)
	}, 320)
	if err != nil {
		panic(err)
	}
	return file
})

var words = strings.Fields("the words of a document, some more of them and a few others naïve 日本 12 \n\n x=1")

// makeDocuments makes n texts, every tenth of which equals an earlier one.
func makeDocuments(n int) []string {
	r := rand.New(rand.NewPCG(11, uint64(n)))
	texts := make([]string, n)
	for i := range texts {
		if i%10 == 9 {
			texts[i] = texts[i/2]
			continue
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%d", i)
		for range r.IntN(120) {
			b.WriteString(" " + words[r.IntN(len(words))])
		}
		texts[i] = b.String()
	}
	return texts
}

var setNames = []string{"Pile-CC", "ArXiv", "Books3"}

// jsonLines writes texts in the Pile's form; text i is of set i%3.
func jsonLines(t testing.TB, texts []string) []byte {
	t.Helper()
	var b bytes.Buffer
	for i, text := range texts {
		line, err := json.Marshal(map[string]any{"text": text, "meta": map[string]any{"pile_set_name": setNames[i%3]}})
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	return b.Bytes()
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func compress(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// testInputs writes three files of documents of about 6 MB.
func testInputs(t testing.TB) (paths, texts []string) {
	t.Helper()
	dir := t.TempDir()
	texts = makeDocuments(15000)
	paths = []string{
		write(t, filepath.Join(dir, "00.jsonl.zst"), compress(t, jsonLines(t, texts[:6000]))),
		write(t, filepath.Join(dir, "01.jsonl"), jsonLines(t, texts[6000:6003])),
		write(t, filepath.Join(dir, "02.jsonl.zst"), compress(t, jsonLines(t, texts[6003:]))),
	}
	return paths, texts
}

func testOptions(t testing.TB, inputs ...string) Options {
	t.Helper()
	o := Default()
	o.Inputs, o.RowLength, o.ShardBytes, o.Workers = inputs, 64, 200_000, 2
	o.Tokenizer, _ = tokenizerFile(t)
	o.Out = filepath.Join(t.TempDir(), "out")
	return o
}

var quiet = ui.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard, Width: 80}

func mustRun(t testing.TB, o Options) *data.Manifest {
	t.Helper()
	if err := Run(t.Context(), o, quiet); err != nil {
		t.Fatal(err)
	}
	m, err := data.ReadManifest(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	checkShards(t, o.Out)
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(o.Out), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return m
}

func checkShards(t testing.TB, folder string) {
	t.Helper()
	shards, err := data.OpenShards([]string{folder})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shards {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
		s.Close()
	}
}

// rowsOf reads all rows of a folder.
func rowsOf(t testing.TB, folder string) [][]uint16 {
	t.Helper()
	l, err := data.OpenLoader([]string{folder}, data.LoaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rows := make([][]uint16, l.Rows())
	for i := range rows {
		row, err := l.Next()
		if err != nil {
			t.Fatal(err)
		}
		rows[i] = slices.Clone(row)
	}
	return rows
}

// stream joins rows that stream packing made.
func stream(rows [][]uint16) []uint16 {
	joined := slices.Clone(rows[0][:1])
	for _, row := range rows {
		joined = append(joined, row[1:]...)
	}
	return joined
}

func encodeAll(tok *tokenizer.Tokenizer, texts []string) (tokens []uint16) {
	for _, text := range texts {
		tokens = append(tok.AppendEncode(tokens, text), uint16(tok.EOS()))
	}
	return tokens
}

func TestStream(t *testing.T) {
	paths, texts := testInputs(t)
	o := testOptions(t, paths...)
	_, tok := tokenizerFile(t)
	m := mustRun(t, o)
	want := encodeAll(tok, texts)
	if got := stream(rowsOf(t, o.Out)); !slices.Equal(got, want) {
		t.Errorf("the rows hold %d tokens that differ from the %d of the documents", len(got), len(want))
	}
	if m.Documents != int64(len(texts)) || m.Tokens != int64(len(want)-len(texts)) || len(m.Shards) < 5 || m.Sets["ArXiv"].Documents == 0 {
		t.Errorf("manifest: %+v in %d shards", m.Count, len(m.Shards))
	}
	for _, s := range m.Sources {
		if len(s.SHA256) != 64 || s.Records == 0 {
			t.Errorf("source %+v", s)
		}
	}
}

// files reads a folder, its manifests without what differs from run to run.
func files(t testing.TB, folder string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if e.Name() == data.ManifestName {
			m, err := data.ReadManifest(filepath.Dir(path))
			if err != nil {
				return err
			}
			m.Provenance = nil
			m.Tokenizer.Path = ""
			if b, err = m.JSON(); err != nil {
				return err
			}
		}
		rel, _ := filepath.Rel(folder, path)
		found[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func sameFiles(t testing.TB, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s differs", name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

// variants are options that go different ways through the packing.
var variants = map[string]func(*Options){
	"stream":  func(o *Options) {},
	"authors": func(o *Options) { o.Packing = data.Authors },
	"parts": func(o *Options) {
		o.SplitSets, o.Dedup, o.HeldOut, o.Sample, o.Packing = true, true, 0.1, 0.7, data.Authors
	},
}

func TestWorkersDoNotMatter(t *testing.T) {
	paths, _ := testInputs(t)
	for name, change := range variants {
		t.Run(name, func(t *testing.T) {
			var want map[string]string
			for _, workers := range []int{1, 2, 7} {
				o := testOptions(t, paths...)
				change(&o)
				o.Workers = workers
				mustRun(t, o)
				got := files(t, o.Out)
				if want == nil {
					want = got
				}
				sameFiles(t, got, want)
			}
		})
	}
}

// TestInterruption stops preparations again and again and lets them go on.
func TestInterruption(t *testing.T) {
	paths, _ := testInputs(t)
	saveEvery = 0
	defer func() { saveEvery = 15e9 }()
	for name, change := range variants {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t, paths...)
			change(&o)
			whole := o
			whole.Out += "-whole"
			mustRun(t, whole)
			for stops := 0; ; stops++ {
				ctx := &endingContext{Context: t.Context(), left: 6, done: make(chan struct{})}
				err := Run(ctx, o, quiet)
				if err == nil {
					// How far a run comes before it stops depends on the workers' speed.
					if stops < 1 {
						t.Error("no interruption")
					}
					break
				}
				if !errors.Is(err, ui.ErrInterrupted) {
					t.Fatal(err)
				}
				if _, err := os.Stat(o.Out); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("the output is there after an interruption: %v", err)
				}
			}
			sameFiles(t, files(t, o.Out), files(t, whole.Out))
		})
	}
}

// endingContext ends when it has been asked a number of times.
type endingContext struct {
	context.Context
	mu   sync.Mutex
	left int
	done chan struct{}
}

func (c *endingContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		close(c.done)
	}
	return c.done
}

func (c *endingContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

func TestOtherOptionsDoNotResume(t *testing.T) {
	paths, _ := testInputs(t)
	o := testOptions(t, paths...)
	ctx := &endingContext{Context: t.Context(), left: 5, done: make(chan struct{})}
	if err := Run(ctx, o, quiet); !errors.Is(err, ui.ErrInterrupted) {
		t.Fatal(err)
	}
	other := o
	other.RowLength = 32
	if err := Run(t.Context(), other, quiet); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "unfinished") {
		t.Errorf("error %v, want one about the unfinished work", err)
	}
	other.Force = true
	mustRun(t, other)
}

func TestSampleAndHeldOut(t *testing.T) {
	paths, texts := testInputs(t)
	o := testOptions(t, paths...)
	o.Sample, o.HeldOut = 0.3, 0.2
	m := mustRun(t, o)
	taken := float64(m.Documents + m.Dropped.HeldOut)
	if n := float64(len(texts)); math.Abs(taken-0.3*n) > 5*math.Sqrt(0.3*0.7*n) || m.Dropped.Sampled != int64(n-taken) {
		t.Errorf("%g of %g documents sampled, %d left out; want about 30%%", taken, n, m.Dropped.Sampled)
	}
	if held := float64(m.Dropped.HeldOut); math.Abs(held-0.2*taken) > 5*math.Sqrt(0.2*0.8*taken) {
		t.Errorf("%g of %g documents held out, want about 20%%", held, taken)
	}
	checkShards(t, filepath.Join(o.Out, HeldoutFolder))
	h, err := data.ReadManifest(filepath.Join(o.Out, HeldoutFolder))
	if err != nil || h.Documents != m.Dropped.HeldOut {
		t.Errorf("held-out manifest: %v, %v", h, err)
	}
	other := o
	other.Seed, other.Out = 7, o.Out+"-7"
	mustRun(t, other)
	if slices.Equal(stream(rowsOf(t, o.Out)), stream(rowsOf(t, other.Out))) {
		t.Error("two seeds take the same documents")
	}
}

func TestDedupLimitAndSets(t *testing.T) {
	paths, texts := testInputs(t)
	_, tok := tokenizerFile(t)
	var unique, arxiv []string
	for i, text := range texts {
		if i%10 != 9 {
			unique = append(unique, text)
		}
	}
	for _, part := range [][]string{texts[:6000], texts[6000:6003], texts[6003:]} {
		for i, text := range part {
			if i%3 == 1 {
				arxiv = append(arxiv, text)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*Options)
		want   []string
	}{
		"dedup":   {func(o *Options) { o.Dedup = true }, unique},
		"limit":   {func(o *Options) { o.Limit = 6010 }, texts[:6010]},
		"set":     {func(o *Options) { o.Sets = []string{"ArXiv"} }, arxiv},
		"exclude": {func(o *Options) { o.ExcludeSets = []string{"Pile-CC", "Books3"} }, arxiv},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t, paths...)
			c.change(&o)
			m := mustRun(t, o)
			if got := stream(rowsOf(t, o.Out)); !slices.Equal(got, encodeAll(tok, c.want)) {
				t.Errorf("%d documents in %d tokens are not the %d wanted", m.Documents, len(got), len(c.want))
			}
		})
	}
}

func TestSplitSets(t *testing.T) {
	paths, _ := testInputs(t)
	o := testOptions(t, paths...)
	o.SplitSets = true
	m := mustRun(t, o)
	l, err := data.OpenLoader([]string{o.Out}, data.LoaderOptions{Shuffle: true, Weights: map[string]float64{"ArXiv": 2, "Books3": 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Rows() != m.Rows {
		t.Errorf("%d rows an epoch, want %d", l.Rows(), m.Rows)
	}
}

// TestLongText compares a text that is read in parts with one in one piece.
func TestLongText(t *testing.T) {
	text := strings.Repeat(strings.Join(words, " ")+"\n   don't  é\u0301 ", 40000)
	path := write(t, filepath.Join(t.TempDir(), "a.txt"), []byte(text))
	_, tok := tokenizerFile(t)
	for _, p := range []data.Packing{data.Stream, data.Authors} {
		o := testOptions(t, path)
		o.Packing = p
		m := mustRun(t, o)
		want := encodeAll(tok, []string{text})
		got := stream(rowsOf(t, o.Out))
		if p == data.Authors {
			want = append(want[:o.RowLength], uint16(tok.EOS()))
		}
		if !slices.Equal(got, want) || m.Documents != 1 {
			t.Errorf("%v: %d tokens in %d documents differ from the %d of the whole", p, len(got), m.Documents, len(want))
		}
	}
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b.go"), []byte("package b"))
	write(t, filepath.Join(dir, "a.go"), []byte("package a"))
	write(t, filepath.Join(dir, "c.go"), []byte("\x00"))
	o := testOptions(t, dir)
	o.Globs = []string{"**/*.go"}
	m := mustRun(t, o)
	_, tok := tokenizerFile(t)
	if got := stream(rowsOf(t, o.Out)); !slices.Equal(got, encodeAll(tok, []string{"package a", "package b"})) || m.Dropped.Skipped != 1 {
		t.Errorf("tokens %v, skipped %d", got, m.Dropped.Skipped)
	}
}

// TestTokenRows takes packed rows as they are, and packs them
// anew in rows of another length.
func TestTokenRows(t *testing.T) {
	paths, texts := testInputs(t)
	_, tok := tokenizerFile(t)
	o := testOptions(t, paths...)
	mustRun(t, o)

	whole := o
	whole.Inputs, whole.Packing, whole.Out = []string{o.Out}, data.Rows, o.Out+"-rows"
	mustRun(t, whole)
	if !slices.EqualFunc(rowsOf(t, whole.Out), rowsOf(t, o.Out), slices.Equal[[]uint16]) {
		t.Error("rows taken as they are differ")
	}
	longer := o
	longer.Inputs, longer.RowLength, longer.Out = []string{o.Out}, 100, o.Out+"-100"
	mustRun(t, longer)
	if !slices.Equal(stream(rowsOf(t, longer.Out)), encodeAll(tok, texts)) {
		t.Error("rows packed anew are not the documents")
	}
	shorter := o
	shorter.Inputs, shorter.RowLength, shorter.Packing, shorter.Out = []string{o.Out}, 10, data.Rows, o.Out+"-10"
	if err := Run(t.Context(), shorter, quiet); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "at least 64") {
		t.Errorf("rows that do not fit: %v", err)
	}
}
