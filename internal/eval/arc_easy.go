package eval

import (
	"slices"
	"strconv"
	"strings"
)

// arcEasy is the AI2 Reasoning Challenge's easy questions (arXiv 1803.05457),
// read from the official ARC-Easy-Test.jsonl.
var arcEasy = Task{
	Name: "arc_easy", Version: 1, Kind: MultipleChoice,
	Metrics: []Metric{accuracy, normalizedAccuracy},
	Files:   []string{"arc_easy/ARC-Easy-Test.jsonl", "ARC-Easy-Test.jsonl", "arc_easy.jsonl"},
	Read:    readARC,
	Shots: []Split{
		{"train", []string{"arc_easy/ARC-Easy-Train.jsonl", "ARC-Easy-Train.jsonl"}},
		{"validation", []string{"arc_easy/ARC-Easy-Dev.jsonl", "ARC-Easy-Dev.jsonl"}},
	},
	Config: taskConfig("arc_easy", []Field{
		{"group", []string{"ai2_arc"}},
		{"dataset_path", "ai2_arc"}, {"dataset_name", "ARC-Easy"},
		{"training_split", "train"}, {"validation_split", "validation"}, {"test_split", "test"},
		{"doc_to_text", "Question: {{question}}\nAnswer:"},
		{"doc_to_target", "{{choices.label.index(answerKey)}}"},
		{"doc_to_choice", "{{choices.text}}"},
	}, "Question: {{question}}\nAnswer:", MultipleChoice, 1, listMean("acc"), listMean("acc_norm")),
}

func readARC(file string) ([]Document, error) {
	var docs []Document
	err := readRows(file, func(r row) error {
		question := r.object("question")
		stem, id, key := question.filled("stem"), r.text("id"), r.filled("answerKey")
		var texts, labels []string
		for _, c := range question.objects("choices") {
			texts, labels = append(texts, c.text("text")), append(labels, c.filled("label"))
		}
		gold := slices.Index(labels, key)
		if gold < 0 {
			r.bad("answerKey", "expected one of the labels %s, found %q", strings.Join(labels, ", "), key)
		}
		docs = append(docs, Document{
			Fields: Object{
				{"id", id}, {"question", stem},
				{"choices", Object{{"text", texts}, {"label", labels}}},
				{"answerKey", key},
			},
			Context: "Question: " + stem + "\nAnswer:",
			Target:  strconv.Itoa(gold),
		}.choose(texts, gold))
		return *r.err
	})
	return docs, err
}
