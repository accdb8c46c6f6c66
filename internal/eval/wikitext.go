package eval

import (
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"mlkv/internal/ui"
)

// wikitext is WikiText-2 (arXiv 1609.07843) by page: the log-likelihood of every
// page's text after a detokenizer, over the words and bytes that it had before.
// It is read as JSON lines with the field "page", or from the original
// wiki.test.raw, which is cut into pages at its main headings.
var wikitext = Task{
	Name: "wikitext", Version: 2, Kind: Rolling,
	Metrics: textMetrics,
	Files:   []string{"wikitext/test.jsonl", "wikitext/wiki.test.raw", "wiki.test.raw", "wikitext.jsonl"},
	Read:    readWikitext,
	Config: taskConfig("wikitext", []Field{
		{"dataset_path", "EleutherAI/wikitext_document_level"}, {"dataset_name", "wikitext-2-raw-v1"},
		{"training_split", "train"}, {"validation_split", "validation"}, {"test_split", "test"},
		{"doc_to_text", ""},
		{"doc_to_target", "<function wikitext_detokenizer>"},
		{"process_results", "<function process_results>"},
	}, "{{page}}", Rolling, 2, Object{{"metric", "word_perplexity"}}, Object{{"metric", "byte_perplexity"}}, Object{{"metric", "bits_per_byte"}}),
}

func readWikitext(file string) ([]Document, error) {
	var docs []Document
	add := func(page string) {
		docs = append(docs, Document{Fields: Object{{"page", page}}, Text: page, Target: detokenize(page)})
	}
	if strings.HasSuffix(file, ".raw") {
		if err := readPages(file, add); err != nil {
			return nil, err
		}
		return docs, nil
	}
	err := readRows(file, func(r row) error {
		add(r.text("page"))
		return *r.err
	})
	return docs, err
}

// readPages cuts a raw WikiText file at its main headings, " = Title = ", as the
// data set EleutherAI/wikitext_document_level is made.
func readPages(file string, add func(page string)) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return ui.Inputf("task file: %w", err)
	}
	if !utf8.Valid(data) {
		return ui.Inputf("%s: expected UTF-8, found other bytes", file)
	}
	var page []string
	found := false
	flush := func() {
		if text := strings.Join(page, "\n"); strings.TrimSpace(text) != "" {
			add(text)
			found = true
		}
		page = nil
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if isHeading(line) {
			flush()
		}
		page = append(page, line)
	}
	flush()
	if !found {
		return ui.Inputf("%s: expected pages of text, found none", file)
	}
	return nil
}

// isHeading reports a main heading; those of sections have more than one "=".
func isHeading(line string) bool {
	line = strings.ReplaceAll(line, "= = =", "===")
	line = strings.TrimSpace(strings.ReplaceAll(line, "= =", "=="))
	return strings.HasPrefix(line, "= ") && strings.HasSuffix(line, " =")
}

// pySpace is Python's \s as a character class.
const pySpace = `[\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]*`

// wikitextRules are those of the harness's wikitext_detokenizer
// (tasks/wikitext/preprocess_wikitext.py), in its order.
var wikitextRules = []struct {
	pattern *regexp.Regexp // nil: old is replaced
	old, by string
}{
	{old: "s '", by: "s'"},
	{pattern: regexp.MustCompile(`/' [0-9]/`), by: "/'[0-9]/"},
	{old: " @-@ ", by: "-"},
	{old: " @,@ ", by: ","},
	{old: " @.@ ", by: "."},
	{old: " : ", by: ": "},
	{old: " ; ", by: "; "},
	{old: " . ", by: ". "},
	{old: " ! ", by: "! "},
	{old: " ? ", by: "? "},
	{old: " , ", by: ", "},
	{pattern: regexp.MustCompile(`\(` + pySpace + `([^\)]*?)` + pySpace + `\)`), by: "(${1})"},
	{pattern: regexp.MustCompile(`\[` + pySpace + `([^\]]*?)` + pySpace + `\]`), by: "[${1}]"},
	{pattern: regexp.MustCompile(`\{` + pySpace + `([^}]*?)` + pySpace + `\}`), by: "{${1}}"},
	{pattern: regexp.MustCompile(`"` + pySpace + `([^"]*?)` + pySpace + `"`), by: `"${1}"`},
	{pattern: regexp.MustCompile(`'` + pySpace + `([^']*?)` + pySpace + `'`), by: "'${1}'"},
	{old: "= = = =", by: "===="},
	{old: "= = =", by: "==="},
	{old: "= =", by: "=="},
	{old: " ° ", by: "°"},
	{old: " \n", by: "\n"},
	{old: "\n ", by: "\n"},
	{old: " N ", by: " 1 "},
	{old: " 's", by: "'s"},
}

// detokenize undoes WikiText's tokenization as the harness does.
func detokenize(page string) string {
	for _, r := range wikitextRules {
		if r.pattern != nil {
			page = r.pattern.ReplaceAllString(page, r.by)
		} else {
			page = strings.ReplaceAll(page, r.old, r.by)
		}
	}
	return page
}
