package eval

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
)

// sampleLog writes a task's documents with the model's answers, one JSON object
// a line, as the harness's --log_samples does (evaluation_tracker.py).
func sampleLog(t TaskResult) ([]byte, error) {
	var out bytes.Buffer
	var metrics []string
	for _, m := range t.Metrics {
		metrics = append(metrics, m.Name)
	}
	for i, d := range t.Documents {
		doc, err := pyJSON{Indent: 2}.dump(d.Fields)
		if err != nil {
			return nil, err
		}
		row := Object{
			{"doc_id", i},
			{"doc", d.Fields},
			{"target", d.Target},
			{"arguments", t.arguments(d)},
			{"resps", t.responses(t.Answers[i], true)},
			{"filtered_resps", t.responses(t.Answers[i], false)},
			{"filter", "none"},
			{"metrics", metrics},
			{"doc_hash", hash(string(doc))},
			{"prompt_hash", hash(t.prompt(d))},
			{"target_hash", hash(d.Target)},
		}
		for m, metric := range t.Metrics {
			score := any(t.Scores[m][i])
			if metric.Weigh != nil {
				score = []any{score, int(metric.Weigh(d))}
			}
			row = append(row, Field{metric.Name, score})
		}
		line, err := pyJSON{}.dump(row)
		if err != nil {
			return nil, err
		}
		out.Write(append(line, '\n'))
	}
	return out.Bytes(), nil
}

// prompt is the first argument of a document's requests.
func (t Task) prompt(d Document) string {
	if t.Kind == Rolling {
		return d.Target
	}
	return d.Context
}

// arguments are the pairs that were scored, or the text.
func (t Task) arguments(d Document) Object {
	if t.Kind == Rolling {
		return Object{{"gen_args_0", Object{{"arg_0", d.Target}}}}
	}
	var out Object
	for i, c := range d.Continuations {
		out = append(out, Field{"gen_args_" + pyInt(i), Object{{"arg_0", d.Context}, {"arg_1", c}}})
	}
	return out
}

// responses are the answers as strings, each in a list of its own where nested.
func (t Task) responses(answers []Answer, nested bool) []any {
	var out []any
	for _, a := range answers {
		pair := any([]string{pyFloat(a.LogLikelihood), pyBool(a.Greedy)})
		if t.Kind == Rolling {
			pair = pyFloat(a.LogLikelihood)
		}
		if nested {
			pair = []any{pair}
		}
		out = append(out, pair)
	}
	return out
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
