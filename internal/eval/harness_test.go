package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/infer"
)

// sharedData returns a path below the folder of real data, or skips the test.
func sharedData(t *testing.T, elem ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{"..", "..", "..", "shared", "data"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs the shared data: %v", err)
	}
	return path
}

func readTask(t *testing.T, task Task) []Document {
	t.Helper()
	file, err := task.Find(sharedData(t, "eval"))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := task.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

// requestHash is the SHA-256 of json.dumps(requests, sort_keys=True), as the
// harness's tests/test_version_stable.py takes it.
func requestHash(t *testing.T, requests [][2]string) string {
	t.Helper()
	list := make([]any, len(requests))
	for i, r := range requests {
		list[i] = []string{r[0], r[1]}
	}
	text, err := pyJSON{ASCII: true}.dump(list)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// harness3 rebuilds what version 0.3 of the harness asks and how it scores.
type harness3 struct {
	version  string
	requests func(d Document) [][2]string
	answers  func(lls []float64) []Answer // in the order of our continuations
	names    map[string]string            // our metrics by its names
}

func plain3(d Document) [][2]string {
	var out [][2]string
	for _, c := range d.Continuations {
		out = append(out, [2]string{d.Context, c})
	}
	return out
}

func inOrder(lls []float64) []Answer {
	out := make([]Answer, len(lls))
	for i, l := range lls {
		out[i].LogLikelihood = l
	}
	return out
}

var choices3 = map[string]string{"acc": "acc", "acc_norm": "acc_norm"}

var harness3Tasks = map[string]harness3{
	"arc_easy": {"v0", plain3, inOrder, choices3},
	"piqa":     {"v0", plain3, inOrder, choices3},
	"sciq": {"v0", func(d Document) [][2]string {
		d.Context = strings.TrimFunc(d.Context, infer.IsSpace)
		return plain3(d)
	}, inOrder, choices3},
	"boolq": {"v1", func(d Document) [][2]string {
		return [][2]string{{d.Context, " yes"}, {d.Context, " no"}}
	}, func(lls []float64) []Answer {
		return []Answer{{LogLikelihood: lls[1]}, {LogLikelihood: lls[0]}}
	}, map[string]string{"acc": "acc"}},
	// Asked twice: once for the log-likelihood, once for the greedy match.
	"lambada_openai": {"v0", func(d Document) [][2]string {
		return append(plain3(d), plain3(d)...)
	}, func(lls []float64) []Answer {
		return []Answer{{LogLikelihood: lls[0]}}
	}, map[string]string{"ppl": "perplexity", "acc": "acc"}},
}

// The documents, their order and their prompts must be the harness's, and so
// must the metrics: its tests record the scores of log-likelihoods drawn from
// Python's generator, with ten bootstrap draws for the perplexity.
func TestHarnessRequestsAndScores(t *testing.T) {
	for _, task := range Tasks {
		if task.Kind == Rolling { // its test data has no such task
			continue
		}
		t.Run(task.Name, func(t *testing.T) {
			old := harness3Tasks[task.Name]
			docs := readTask(t, task)
			newPyRandom(42).shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
			var requests [][2]string
			var perDocument []int
			for _, d := range docs {
				r := old.requests(d)
				requests = append(requests, r...)
				perDocument = append(perDocument, len(r))
			}
			want, err := os.ReadFile(sharedData(t, "eval", "request-hashes", task.Name+"-"+old.version+"-loglikelihood"))
			if err != nil {
				t.Fatal(err)
			}
			if got := requestHash(t, requests); got != strings.TrimSpace(string(want)) {
				t.Errorf("requests hash to %s, the harness's to %s", got, want)
			}

			random := newPyRandom(42)
			scores := make([][]float64, len(task.Metrics))
			for i, d := range docs {
				lls := make([]float64, perDocument[i])
				for k := range lls {
					lls[k] = -random.float64()
				}
				for m, metric := range task.Metrics {
					scores[m] = append(scores[m], metric.Score(d, old.answers(lls)))
				}
			}
			compareScores(t, task, old, scores)
		})
	}
}

func compareScores(t *testing.T, task Task, old harness3, scores [][]float64) {
	t.Helper()
	data, err := os.ReadFile(sharedData(t, "eval", "request-hashes", task.Name+"-"+old.version+"-res.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Results map[string]map[string]float64 `json:"results"`
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for theirs, ours := range old.names {
		m := slices.IndexFunc(task.Metrics, func(m Metric) bool { return m.Name == ours })
		got := mean(scores[m])
		if ours == "perplexity" {
			got = Estimate{math.Exp(-average(scores[m])), bootstrap(scores[m], 10)}
		}
		for key, value := range map[string]float64{theirs: got.Value, theirs + "_stderr": got.StdErr} {
			ref, ok := want.Results[task.Name][key]
			if d := math.Abs(value - ref); !ok || !(d <= 1e-9*math.Abs(ref)) {
				t.Errorf("%s: %s, the harness has %s (difference %.3g)", key, pyFloat(value), pyFloat(ref), d)
			}
			checked++
		}
	}
	if checked != len(want.Results[task.Name]) {
		t.Errorf("checked %d figures of %d", checked, len(want.Results[task.Name]))
	}
}

// The requests of version 0.4, in the files' order. The hashes are this
// project's own: they pin what TestHarnessRequestsAndScores proves for 0.3 and
// the prompts that changed since.
func TestRequestsArePinned(t *testing.T) {
	for name, want := range map[string]string{
		"arc_easy":       "17efe5cb96db0a727c2cf0b15d07d94781fcd7319e4e1f0161751289fee21026",
		"boolq":          "48af89fc7cdf1b3a0ade434451e52ab74985450e008c9054033559d6170f14bb",
		"lambada_openai": "2b24fc3bf1b68cdcb6b69ef6ba562d70592b1d2ff83181ba567e9a5ceab37234",
		"piqa":           "5a782cd449aa875a7f837e15268fac2d27005e1d030c5124e3bec88cdb8a5977",
		"sciq":           "c55e1c45a060663d9e94cd3754a6f9e554bee9f29c8798714194a43bc604d2f1",
	} {
		task, err := LookupTask(name)
		if err != nil {
			t.Fatal(err)
		}
		var requests [][2]string
		for _, d := range readTask(t, task) {
			requests = append(requests, plain3(d)...)
		}
		if got := requestHash(t, requests); got != want {
			t.Errorf("%s: requests hash to %s, want %s", name, got, want)
		}
	}
}
