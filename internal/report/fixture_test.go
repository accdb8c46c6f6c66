package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// fixtureRow is a row of a made-up table: a model of 4 layers and 4 heads of 16.
type fixtureRow struct {
	name                string
	owners, heads       int
	converted, uptrain  float64 // held-out losses
	arc, lambada, stder float64
}

var fixture = []fixtureRow{
	{"MHA-16", 4, 4, 3.0, 2.9, 0.50, 0.40, 0.02},
	{"MLKV-8", 2, 4, 5.0, 3.1, 0.48, 0.35, 0.02},
	{"MQA-4", 4, 1, 5.5, 3.4, 0.44, 0.30, 0.02},
	{"MLKV-2", 2, 1, 6.0, 3.6, 0.42, 0.28, 0.02},
}

func (r fixtureRow) bytes() int { return 2 * r.owners * r.heads * 16 * 2 }

// put writes a value as JSON, or a string as it is, below dir.
func put(t *testing.T, dir, name string, v any) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	data, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		data = string(b)
	}
	if err := os.WriteFile(path, []byte(data), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

type object = map[string]any

// result is a result file as eval writes it.
func (r fixtureRow) result(model string, loss float64, tokens int, date float64) object {
	return object{
		"results": object{
			"arc_easy":       object{"acc,none": r.arc, "acc_stderr,none": r.stder, "alias": "arc_easy"},
			"lambada_openai": object{"acc,none": r.lambada, "acc_stderr,none": r.stder, "perplexity,none": 9.5, "perplexity_stderr,none": "N/A"},
			"heldout":        object{"loss,none": loss, "loss_stderr,none": 0.01, "bits_per_byte,none": loss / 3, "bits_per_byte_stderr,none": "N/A"},
		},
		"versions": object{}, "config": object{"model_args": "pretrained=" + model}, "date": date,
		"mlkv": object{
			"name":    r.name,
			"model":   object{"kv_layers": r.owners, "kv_heads": r.heads, "parameters": 1000 + r.owners, "kv_bytes_per_token": r.bytes()},
			"heldout": object{"loss": loss, "tokens": tokens},
		},
	}
}

// config is the config.json of the model.
func (r fixtureRow) config() object {
	return object{
		"architectures": []string{"GPTNeoXForCausalLM"}, "model_type": "gpt_neox", "hidden_act": "gelu",
		"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256,
		"max_position_embeddings": 64, "rotary_pct": 0.25, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "use_parallel_residual": true,
		"num_key_value_layers": r.owners, "num_key_value_heads": r.heads, "shared_key_rotary": "after",
	}
}

// metrics are the lines of a run of n steps that measured the held-out loss
// before the first step and every tenth.
func (r fixtureRow) metrics(n int) string {
	text := fmt.Sprintf(`{"step":0,"heldout_loss":%g,"heldout_tokens":640,"tokens":0,"elapsed":0}`+"\n", r.converted)
	for s := 1; s <= n; s++ {
		loss := r.uptrain + (r.converted-r.uptrain)*math.Exp(-5*float64(s)/float64(n))
		text += fmt.Sprintf(`{"step":%d,"loss":%g,"lr":0.001,"tokens":%d,"elapsed":%d}`+"\n", s, loss, 64*s, s)
		if s == n {
			loss = r.uptrain
		}
		if s%10 == 0 {
			text += fmt.Sprintf(`{"step":%d,"heldout_loss":%g,"heldout_tokens":640,"tokens":%d,"elapsed":%d}`+"\n", s, loss, 64*s, s)
		}
	}
	return text
}

// measurements are what mlkv measure finds of all fixture rows: the batches 1, 10
// and 100 as far as they fit, the largest, and the longest context.
func measurements(date string) object {
	var models []object
	for _, r := range fixture {
		largest := 1 << 20 / r.bytes()
		var points []object
		for _, b := range []int{1, 10, 100} {
			points = append(points, object{"kind": "batch", "batch_size": b, "length": 64, "is_oom": b > largest,
				"memory": 5000 + 64*b*r.bytes(), "kv_allocated": 64 * b * r.bytes(), "tokens_per_second": 100 * b})
		}
		points = append(points,
			object{"kind": "largest batch", "batch_size": largest, "length": 64, "memory": 5000 + 64*largest*r.bytes(), "tokens_per_second": 12345},
			object{"kind": "longest context", "batch_size": 1, "length": 64 * largest, "memory": 5000, "tokens_per_second": 3})
		models = append(models, object{"name": r.name, "kv_layers": r.owners, "kv_heads": r.heads, "parameters": 1000 + r.owners,
			"cache_bits": 16, "kv_bytes_per_token": r.bytes(), "background_memory": 1000, "points": points})
	}
	return object{"format": "mlkv measurements 1", "device": object{"device": "cuda:0", "name": "a GPU", "memory": 64 << 20},
		"models": models, "provenance": object{"finished": date}}
}

// writeFixture writes the work folders of all fixture rows, each with a
// converted checkpoint, a run and a result, and returns their parent.
func writeFixture(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, r := range fixture {
		work := filepath.Join(root, r.name+"-work")
		put(t, work, "converted/convert.json", object{"tensors": []string{}})
		put(t, work, "converted/config.json", r.config())
		put(t, work, "converted/tokenizer.json", "not read")
		put(t, work, "uptrain/config.yaml", "name: "+r.name+"\n")
		put(t, work, "uptrain/metrics.jsonl", r.metrics(200))
		put(t, work, "uptrain/result.json", object{"steps": 200})
		put(t, work, "uptrain/model/config.json", r.config())
		put(t, work, "uptrain/checkpoints/step-10/results.json", "not read")
		put(t, work, "eval/results.json", r.result(filepath.Join(work, "uptrain", "model"), r.uptrain, 640, 1))
	}
	return root
}
