package eval

import (
	"strings"

	"mlkv/internal/infer"
)

// sciQ is the Science Questions set (arXiv 1707.06209), read from the official
// test set as JSON lines.
var sciQ = Task{
	Name: "sciq", Version: 1, Kind: MultipleChoice,
	Metrics: []Metric{accuracy, normalizedAccuracy},
	Files:   []string{"sciq/test.jsonl", "sciq.jsonl"},
	Read:    readSciQ,
	Shots:   []Split{{"train", []string{"sciq/train.jsonl"}}, {"validation", []string{"sciq/valid.jsonl"}}},
	Config: taskConfig("sciq", []Field{
		{"dataset_path", "sciq"},
		{"training_split", "train"}, {"validation_split", "validation"}, {"test_split", "test"},
		{"doc_to_text", "{{support.lstrip()}}\nQuestion: {{question}}\nAnswer:"},
		{"doc_to_target", 3},
		{"doc_to_choice", "{{[distractor1, distractor2, distractor3, correct_answer]}}"},
	}, "{{support}} {{question}}", MultipleChoice, 1, listMean("acc"), listMean("acc_norm")),
}

func readSciQ(file string) ([]Document, error) {
	var docs []Document
	err := readRows(file, func(r row) error {
		question, support := r.filled("question"), r.text("support")
		d1, d2, d3, correct := r.text("distractor1"), r.text("distractor2"), r.text("distractor3"), r.text("correct_answer")
		docs = append(docs, Document{
			Fields: Object{
				{"question", question}, {"distractor3", d3}, {"distractor1", d1}, {"distractor2", d2},
				{"correct_answer", correct}, {"support", support},
			},
			Context: strings.TrimLeftFunc(support, infer.IsSpace) + "\nQuestion: " + question + "\nAnswer:",
			Target:  "3",
		}.choose([]string{d1, d2, d3, correct}, 3))
		return *r.err
	})
	return docs, err
}
