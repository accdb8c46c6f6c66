package eval

import "strconv"

// boolQ is the yes/no questions of SuperGLUE (arXiv 1905.10044), read from its
// val.jsonl; version 2 of the task.
var boolQ = Task{
	Name: "boolq", Version: 2, Kind: MultipleChoice,
	Metrics: []Metric{accuracy},
	Files:   []string{"boolq/val.jsonl", "BoolQ/val.jsonl", "boolq.jsonl"},
	Read:    readBoolQ,
	Shots:   []Split{{"train", []string{"boolq/train.jsonl", "BoolQ/train.jsonl"}}, {"validation", []string{"boolq/val.jsonl", "BoolQ/val.jsonl", "boolq.jsonl"}}},
	Config: taskConfig("boolq", []Field{
		{"group", []string{"super-glue-lm-eval-v1"}},
		{"dataset_path", "super_glue"}, {"dataset_name", "boolq"},
		{"training_split", "train"}, {"validation_split", "validation"},
		{"doc_to_text", "{{passage}}\nQuestion: {{question}}?\nAnswer:"},
		{"doc_to_target", "label"},
		{"doc_to_choice", []string{"no", "yes"}},
	}, "passage", MultipleChoice, 2, Object{{"metric", "acc"}}),
}

func readBoolQ(file string) ([]Document, error) {
	var docs []Document
	err := readRows(file, func(r row) error {
		question, passage, label := r.filled("question"), r.text("passage"), r.boolean("label")
		index := len(docs)
		if _, ok := r.fields["idx"]; ok {
			r.get("idx", "a number", &index)
		}
		docs = append(docs, Document{
			Fields:  Object{{"question", question}, {"passage", passage}, {"idx", index}, {"label", label}},
			Context: passage + "\nQuestion: " + question + "?\nAnswer:",
			Target:  strconv.Itoa(label),
		}.choose([]string{"no", "yes"}, label))
		return *r.err
	})
	return docs, err
}

// boolean is the value of a field that holds false, true, 0 or 1.
func (r row) boolean(field string) int {
	switch raw := string(r.fields[field]); raw {
	case "0", "false":
		return 0
	case "1", "true":
		return 1
	case "":
		r.bad(field, "expected 0, 1, false or true, found no such field")
	default:
		r.bad(field, "expected 0, 1, false or true, found %.20s", raw)
	}
	return 0
}
