package eval

import (
	"math"
	"os"
	"strings"
	"unicode/utf8"

	"mlkv/internal/infer"
	"mlkv/internal/ui"
)

// TextTask is the name of the task that scores texts of the user's as the
// harness scores WikiText: each from its first token, in windows, without a
// detokenizer.
const TextTask = "text"

// textMetrics are those of whole texts: the log-likelihood of all over the words
// and bytes of all.
var textMetrics = []Metric{
	{Name: "word_perplexity", Score: scoreLogLikelihood, Weigh: func(d Document) float64 { return float64(countWords(d.Text)) }, Ratio: weightedPerplexity},
	{Name: "byte_perplexity", Score: scoreLogLikelihood, Weigh: countBytes, Ratio: weightedPerplexity},
	{Name: "bits_per_byte", Score: scoreLogLikelihood, Weigh: countBytes, Ratio: func(ll, bytes float64) float64 { return -(ll / bytes) / math.Ln2 }},
}

func weightedPerplexity(ll, weight float64) float64 { return math.Exp(-(ll / weight)) }

func countBytes(d Document) float64 { return float64(len(d.Text)) }

// countWords is len(re.split(r"\s+", text)): white space at an end makes an
// empty word there.
func countWords(text string) int {
	n, inside := 1, false
	for _, r := range text {
		space := infer.IsSpace(r)
		if space && !inside {
			n++
		}
		inside = space
	}
	return n
}

// textSet is the task of the user's texts: every row of a JSON-lines file, its
// field "text" or "page", or a file as a whole.
func textSet(files []string) (Set, error) {
	set := Set{File: strings.Join(files, ", "), Task: Task{
		Name: TextTask, Version: 1, Kind: Rolling, Metrics: textMetrics,
		Config: Object{{"task", TextTask}, {"dataset_path", files}, {"output_type", string(Rolling)}, {"metadata", Object{{"version", 1.0}}}},
	}}
	for _, file := range files {
		docs, err := readTexts(file)
		if err != nil {
			return set, err
		}
		set.Documents = append(set.Documents, docs...)
	}
	set.Original = len(set.Documents)
	return set, nil
}

func readTexts(file string) ([]Document, error) {
	var docs []Document
	add := func(field, text string) {
		docs = append(docs, Document{Fields: Object{{field, text}}, Text: text, Target: text})
	}
	if strings.HasSuffix(file, ".jsonl") {
		err := readRows(file, func(r row) error {
			field := "text"
			if _, ok := r.fields["page"]; ok {
				field = "page"
			}
			add(field, r.filled(field))
			return *r.err
		})
		return docs, err
	}
	data, err := os.ReadFile(file)
	switch {
	case err != nil:
		return nil, ui.Inputf("text: %w", err)
	case !utf8.Valid(data):
		return nil, ui.Inputf("%s: expected UTF-8, found other bytes", file)
	case len(data) == 0:
		return nil, ui.Inputf("%s: expected text, found an empty file", file)
	}
	add("text", string(data))
	return docs, nil
}
