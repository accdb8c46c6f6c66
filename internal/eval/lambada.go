package eval

import "strings"

// lambadaOpenAI is LAMBADA (arXiv 1606.06031) as OpenAI prepared it: the last
// word of a passage, read from lambada_test.jsonl.
var lambadaOpenAI = Task{
	Name: "lambada_openai", Version: 1, Kind: LogLikelihood,
	Metrics: []Metric{targetPerplexity, greedyAccuracy},
	Files:   []string{"lambada_openai/lambada_test.jsonl", "lambada_test.jsonl", "lambada_openai.jsonl"},
	Read:    readLAMBADA,
	Shots:   []Split{{"test", []string{"lambada_openai/lambada_test.jsonl", "lambada_test.jsonl", "lambada_openai.jsonl"}}},
	Config: taskConfig("lambada_openai", []Field{
		{"group", []string{"lambada"}},
		{"dataset_path", "EleutherAI/lambada_openai"}, {"dataset_name", "default"},
		{"test_split", "test"},
		{"doc_to_text", "{{text.split(' ')[:-1]|join(' ')}}"},
		{"doc_to_target", "{{' '+text.split(' ')[-1]}}"},
	}, "{{text}}", LogLikelihood, 1,
		Object{{"metric", "perplexity"}, {"aggregation", "perplexity"}, {"higher_is_better", false}},
		listMean("acc")),
}

func readLAMBADA(file string) ([]Document, error) {
	var docs []Document
	err := readRows(file, func(r row) error {
		text := r.filled("text")
		cut := max(strings.LastIndexByte(text, ' '), 0)
		last := " " + strings.TrimPrefix(text[cut:], " ")
		if last == " " {
			r.bad("text", "expected a last word, found a space at the end")
		}
		docs = append(docs, Document{
			Fields:        Object{{"text", text}},
			Context:       text[:cut],
			Continuations: []string{last},
			Target:        last,
		})
		return *r.err
	})
	return docs, err
}
