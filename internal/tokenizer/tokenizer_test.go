package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/text/unicode/norm"
)

// sharedPath is a file of the shared data, which lies beside the module.
func sharedPath(t testing.TB, elem ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{"..", "..", "..", "shared"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs the shared data: %v", err)
	}
	return path
}

func goldenPath(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("MLKV_GOLDEN")
	if dir == "" {
		return sharedPath(t, "golden", name)
	}
	return filepath.Join(dir, name)
}

func neoxTokenizer(t testing.TB) *Tokenizer {
	t.Helper()
	tok, err := Load(sharedPath(t, "data", "tokenizer", "20B_tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestGoldenTokens(t *testing.T) {
	data, err := os.ReadFile(goldenPath(t, "tokens.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Text string
		IDs  []int32
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatal("no strings in tokens.json")
	}
	tok := neoxTokenizer(t)
	wrong := 0
	for _, c := range cases {
		got := tok.Encode(c.Text)
		if !slices.Equal(got, c.IDs) {
			wrong++
			t.Errorf("%q:\n got %v\nwant %v", c.Text, got, c.IDs)
		}
		if back, want := tok.Decode(got), norm.NFC.String(c.Text); back != want {
			t.Errorf("decode of %q: got %q, want %q", c.Text, back, want)
		}
	}
	t.Logf("%d of %d strings exact", len(cases)-wrong, len(cases))
}

func TestNeoXFacts(t *testing.T) {
	tok := neoxTokenizer(t)
	if got := tok.VocabSize(); got != 50277 {
		t.Errorf("VocabSize %d, want 50277", got)
	}
	if got := tok.EOS(); got != 0 {
		t.Errorf("EOS %d, want 0", got)
	}
	if got := len(tok.Checksum()); got != 64 {
		t.Errorf("checksum of %d characters, want 64", got)
	}
	if got := tok.Decode([]int32{-1, 50277, 70000}); got != "" {
		t.Errorf("ids beyond the vocabulary decode to %q", got)
	}
}

// pattern is a slow reading of GPT-2's pattern, written from its alternatives.
func pattern(text string) []string {
	runes := []rune(text)
	is := func(i int, c class) bool { return i < len(runes) && classOf(runes[i]) == c }
	run := func(i int, c class) int {
		for is(i, c) {
			i++
		}
		return i
	}
	var words []string
	for i := 0; i < len(runes); {
		end := i
		for _, c := range []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
			if end == i && strings.HasPrefix(string(runes[i:]), c) {
				end = i + len(c)
			}
		}
		for _, c := range []class{letter, number, other} {
			from := i
			if runes[i] == ' ' && end == i {
				from++
			}
			if end == i && is(from, c) {
				end = run(from, c)
			}
		}
		if end == i {
			end = run(i, space)
			if end < len(runes) && end-i > 1 {
				end--
			}
		}
		words = append(words, string(runes[i:end]))
		i = end
	}
	return words
}

func checkSplit(t *testing.T, text string) {
	t.Helper()
	var words []string
	for i := 0; i < len(text); {
		end := nextWord(text, i)
		if end <= i || end > len(text) {
			t.Fatalf("%q: word from %d to %d", text, i, end)
		}
		words = append(words, text[i:end])
		i = end
	}
	if want := pattern(text); !slices.Equal(words, want) {
		t.Fatalf("%q: got %q, want %q", text, words, want)
	}
}

func TestSplit(t *testing.T) {
	for _, text := range []string{
		"", " ", "  ", "a", " a", "  a", "\n a", "\n\na", " \n", "a\u00a0 b", "a \u00a0b", "\u3000\u3000x",
		"don't", "'s's", " 's", "!'s", "'", "a'", "'r", "'re", "I'LL", "x1y22", "½ ٣", "é\u0301x", "日本 語", "🙂🙂 a", "\u0085x", "\x00\x01 \x1c",
	} {
		checkSplit(t, text)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("I'll  don't\n\t x1 \u00a0é")
	f.Fuzz(func(t *testing.T, text string) { checkSplit(t, toUTF8(text)) })
}

// small is a tokenizer trained in the test, for what needs no shared data.
var small = sync.OnceValue(func() *Tokenizer {
	data, err := Train(texts(strings.Repeat("the cat sat on the mat, don't they? ", 40), strings.Repeat("  func main() {\n\t\treturn 12345 + naïve日本\n}\n", 30)), 400)
	if err != nil {
		panic(err)
	}
	t, err := Parse(data)
	if err != nil {
		panic(err)
	}
	return t
})

func texts(list ...string) func(func(string, error) bool) {
	return func(yield func(string, error) bool) {
		for _, s := range list {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// slowMerge joins the pair of the lowest rank, one at a time, over strings.
func slowMerge(tok *Tokenizer, word string) []uint16 {
	var ids []uint16
	for i := range len(word) {
		ids = append(ids, tok.byteID[word[i]])
	}
	for {
		best, at := noMerge, -1
		for i := 0; i+1 < len(ids); i++ {
			if p := tok.merges.find(ids[i], ids[i+1]); p < best {
				best, at = p, i
			}
		}
		if at < 0 {
			return ids
		}
		ids = slices.Replace(ids, at, at+2, uint16(best))
	}
}

func TestLongWords(t *testing.T) {
	tok := small()
	for _, unit := range []string{"a", "the", "tthhee", "日本", "-", "retur"} {
		for n := 1; n < 400; n += 7 {
			word := strings.Repeat(unit, n)
			got, want := tok.AppendEncode(nil, word), slowMerge(tok, word)
			if !slices.Equal(got, want) {
				t.Fatalf("%q x %d: got %v, want %v", unit, n, got, want)
			}
		}
	}
}

func TestAddedTokens(t *testing.T) {
	tok := neoxTokenizer(t)
	for n := 2; n <= 24; n++ {
		if got := tok.Encode(strings.Repeat(" ", n)); len(got) != 1 || got[0] != int32(50278-n) {
			t.Errorf("%d spaces: %v, want [%d]", n, got, 50278-n)
		}
	}
	if got := tok.Encode("a<|endoftext|>b<|endoftext"); got[1] != 0 || tok.Decode(got) != "a<|endoftext|>b<|endoftext" {
		t.Errorf("end of text inside: %v", got)
	}
}

func TestInvalidUTF8(t *testing.T) {
	tok := small()
	if got, want := tok.Encode("a\xffb\xc3"), tok.Encode("a\ufffdb\ufffd"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestConcurrentUse(t *testing.T) {
	tok := small()
	text := strings.Repeat("they sat, 12345 naïve return 日本\n", 50)
	want := tok.Encode(text)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if !slices.Equal(tok.Encode(text), want) {
					t.Error("ids differ between goroutines")
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzEncodeDecode(f *testing.F) {
	f.Add("the cat  don't\n\n <|endoftext|> naïve e\u0301 \xff 日本🙂")
	f.Add(strings.Repeat("ab", 100))
	f.Fuzz(func(t *testing.T, text string) {
		tok := small()
		ids := tok.Encode(text)
		want := toUTF8(text)
		if !strings.Contains(want, "<|") { // a piece is normalized on its own beside an added token
			want = norm.NFC.String(want)
			if got := tok.Decode(ids); got != want {
				t.Fatalf("%q: decoded %q, want %q", text, got, want)
			}
		}
		if again := tok.Encode(text); !slices.Equal(again, ids) {
			t.Fatalf("%q: %v, then %v from the cache", text, ids, again)
		}
	})
}

func FuzzParse(f *testing.F) {
	data, err := Train(texts("aa ab aa ab"), 250)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a"]}}`))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{},"merges":[["a","b"]]},"added_tokens":[{"id":-1,"content":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Parse(data)
		if err != nil {
			return
		}
		tok.Decode(tok.Encode("the  cat's ünï 12 <|endoftext|>"))
	})
}

func TestParseRefuses(t *testing.T) {
	good, err := Train(texts("aa ab aa ab"), 250)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, message string }{
		{`"type": "BPE"`, `"type": "Unigram"`, "model.type: expected BPE, found Unigram"},
		{`"type": "NFC"`, `"type": "NFKC"`, "normalizer.type"},
		{`"add_prefix_space": false`, `"add_prefix_space": true`, "add_prefix_space"},
		{`"content": "<|endoftext|>"`, `"content": "eos"`, "added_tokens"},
		{`"!": 2`, `"!": 70000`, "70000"},
		{`"!": 2`, `"!": 3`, "id 3"},
		{`"!": 2`, `"!日": 2`, "byte-level"},
		{`"!": 2,`, ``, "byte 0x21"},
		{`"Ġ a"`, `"a zz"`, "merges[0]"},
		{`"Ġ a"`, `"a  a"`, "one space"},
		{`"truncation": null`, `"truncation": {"max_length": 4}`, "truncation"},
		{`"merges": [`, `"merges": [3,`, "tokenizer.json"},
	} {
		bad := strings.Replace(string(good), c.old, c.new, 1)
		if bad == string(good) {
			t.Fatalf("%q does not occur in the file:\n%s", c.old, good[:600])
		}
		if _, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s -> %s: error %v, want one that says %q", c.old, c.new, err, c.message)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("empty folder: %v", err)
	}
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("truncated file: %v, want its path named", err)
	}
}

func BenchmarkEncode(b *testing.B) {
	tok := neoxTokenizer(b)
	data, err := os.ReadFile(sharedPath(b, "data", "pile", "lm-extraction-val.jsonl"))
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		text string
	}{{"pile", string(data)}, {"long-word", strings.Repeat("ab", 50000)}} {
		b.Run(c.name, func(b *testing.B) {
			e := tok.NewEncoder()
			var ids []uint16
			b.SetBytes(int64(len(c.text)))
			for b.Loop() {
				ids = e.Append(ids[:0], c.text)
			}
			b.ReportMetric(float64(len(c.text))/float64(len(ids)), "bytes/token")
		})
	}
}

func ExampleTokenizer_Encode() {
	t := small()
	ids := t.Encode("the cat")
	fmt.Println(len(ids), t.Decode(ids))
	// Output: 2 the cat
}
