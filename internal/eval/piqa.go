package eval

import (
	"os"
	"strconv"
	"strings"

	"mlkv/internal/ui"
)

// piqa is Physical Interaction QA (arXiv 1911.11641), read from the official
// valid.jsonl and the labels beside it.
var piqa = Task{
	Name: "piqa", Version: 1, Kind: MultipleChoice,
	Metrics: []Metric{accuracy, normalizedAccuracy},
	Files:   []string{"piqa/valid.jsonl", "piqa.jsonl"},
	Read:    readPIQA,
	Shots:   []Split{{"train", []string{"piqa/train.jsonl"}}, {"validation", []string{"piqa/valid.jsonl", "piqa.jsonl"}}},
	Config: taskConfig("piqa", []Field{
		{"dataset_path", "piqa"},
		{"training_split", "train"}, {"validation_split", "validation"},
		{"doc_to_text", "Question: {{goal}}\nAnswer:"},
		{"doc_to_target", "label"},
		{"doc_to_choice", "{{[sol1, sol2]}}"},
	}, "goal", MultipleChoice, 1, listMean("acc"), listMean("acc_norm")),
}

func readPIQA(file string) ([]Document, error) {
	labelFile := strings.TrimSuffix(file, ".jsonl") + "-labels.lst"
	labels, err := readLabels(labelFile)
	if err != nil {
		return nil, err
	}
	var docs []Document
	err = readRows(file, func(r row) error {
		goal, sol1, sol2 := r.filled("goal"), r.text("sol1"), r.text("sol2")
		n := len(docs)
		if n == len(labels) {
			return ui.Inputf("%s:%d: expected as many lines as %s has labels, %d; found more", file, r.line, labelFile, n)
		}
		docs = append(docs, Document{
			Fields:  Object{{"goal", goal}, {"sol1", sol1}, {"sol2", sol2}, {"label", labels[n]}},
			Context: "Question: " + goal + "\nAnswer:",
			Target:  strconv.Itoa(labels[n]),
		}.choose([]string{sol1, sol2}, labels[n]))
		return *r.err
	})
	if err == nil && len(docs) < len(labels) {
		err = ui.Inputf("%s: expected as many labels as %s has lines, %d; found %d", labelFile, file, len(docs), len(labels))
	}
	return docs, err
}

// readLabels reads a file of one label, 0 or 1, a line.
func readLabels(file string) ([]int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, ui.Inputf("task file: %w", err)
	}
	var labels []int
	for i, line := range strings.Split(strings.TrimRight(string(data), "\r\n"), "\n") {
		switch strings.TrimSpace(line) {
		case "0":
			labels = append(labels, 0)
		case "1":
			labels = append(labels, 1)
		default:
			return nil, ui.Inputf("%s:%d: expected a label, 0 or 1, found %.20q", file, i+1, line)
		}
	}
	return labels, nil
}
