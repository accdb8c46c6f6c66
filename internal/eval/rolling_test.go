package eval

import (
	"math"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/infer"
	"mlkv/internal/ui"
)

// lettersTokenizer gives every byte its own token.
type lettersTokenizer struct{}

func (lettersTokenizer) Encode(text string) []int32 {
	var out []int32
	for _, b := range []byte(text) {
		out = append(out, int32(b))
	}
	return out
}

// The windows of the harness's get_rolling_token_windows and
// make_disjoint_window for a context of 8: first and last token, and how many
// are context.
func TestRollingWindows(t *testing.T) {
	e := infer.Encoder{Tokenizer: lettersTokenizer{}, Empty: 0, Window: 8}
	text := "abcdefghijklmnopqrst"
	for n, want := range map[int][]string{
		0: nil, 1: {"\x00|a"}, 8: {"\x00|abcdefgh"}, 9: {"\x00|abcdefgh", "abcdefgh|i"}, 16: {"\x00|abcdefgh", "h|ijklmnop"},
		17: {"\x00|abcdefgh", "h|ijklmnop", "ijklmnop|q"}, 20: {"\x00|abcdefgh", "h|ijklmnop", "lmnop|qrst"},
	} {
		var got []string
		for _, r := range e.Rolling(text[:n]) {
			var b []byte
			for i, x := range r.Tokens {
				if i == r.From {
					b = append(b, '|')
				}
				b = append(b, byte(x))
			}
			got = append(got, string(b))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d tokens: %q, want %q", n, got, want)
		}
	}
}

// The page and what the harness 0.4.13 makes of it.
func TestDetokenize(t *testing.T) {
	page := " = Title = \n\n It 's 3 @,@ 000 @.@ 5 m ( 10 ft ) ; the \" best \" of N @-@ th : yes ! No ? [ a ] { b } 20 ° C 's ' quoted ' words ' \n = = Sec = = \n" +
		" = = = = Deep = = = = \n tail s ' x /' 5/ , ( \u00a0nbsp \u2003) end \n"
	want := " = Title =\n\nIt's 3,000.5 m (10 ft); the \"best\" of N-th: yes! No? [a] {b} 20°C's'quoted' words'== Sec ==\n==== Deep ====\ntail s' x /'[0-9]/, (nbsp) end\n"
	if got := detokenize(page); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if n := countWords(page); n != 71 || len(page) != 207 {
		t.Errorf("%d words and %d bytes, want 71 and 207", n, len(page))
	}
}

func TestReadWikitext(t *testing.T) {
	raw := " \n = One = \n \n Text of one . \n = = Section = = \n More . \n \n = Two = \n \n Text of two . \n"
	dir := writeFiles(t, map[string]string{"wiki.test.raw": raw, "empty.raw": " \n", "bad.raw": "\xff"})
	docs, err := readWikitext(dir + "/wiki.test.raw")
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 2 || !strings.HasPrefix(docs[0].Text, " = One = \n") || !strings.HasPrefix(docs[1].Text, " = Two = \n") || !strings.Contains(docs[0].Text, "More") {
		t.Errorf("pages %+v", docs)
	}
	for _, name := range []string{"empty.raw", "bad.raw", "none.raw", "none.jsonl"} {
		if _, err := readWikitext(dir + "/" + name); ui.ExitCode(err) != ui.ExitInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The figures of texts are those of the sums over all texts.
func TestTextFigures(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"a.txt": "The caller must hold the lock.", "b.jsonl": `{"text": "It must not be copied."}` + "\n" + `{"page": "Once more."}` + "\n",
		"empty.txt": "", "field.jsonl": `{"body": "x"}` + "\n",
	})
	set, err := textSet([]string{dir + "/a.txt", dir + "/b.jsonl"})
	if err != nil || len(set.Documents) != 3 {
		t.Fatalf("%d documents, %v", len(set.Documents), err)
	}
	tok, _ := demoTokenizer(t)
	out, err := evaluate(t.Context(), demoModel(tok, &hashScorer{asked: map[string]int{}}), Work{Sets: []Set{set}}, memoryLog())
	if err != nil {
		t.Fatal(err)
	}
	sum, words, bytes := 0.0, 6+5+2, 0
	for i, d := range set.Documents {
		sum += out.Tasks[0].Answers[i][0].LogLikelihood
		bytes += len(d.Text)
	}
	want := []float64{math.Exp(-sum / float64(words)), math.Exp(-sum / float64(bytes)), -sum / float64(bytes) / math.Ln2}
	for i, e := range out.Tasks[0].Estimates {
		if math.Abs(e.Value/want[i]-1) > 1e-12 || !math.IsNaN(e.StdErr) {
			t.Errorf("%s: %v, want %v", set.Metrics[i].Name, e, want[i])
		}
	}
	for _, name := range []string{"empty.txt", "field.jsonl", "none.txt"} {
		if _, err := textSet([]string{dir + "/" + name}); ui.ExitCode(err) != ui.ExitInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}
