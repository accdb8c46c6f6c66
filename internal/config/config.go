// Package config is the YAML schema of a run: its keys, defaults, strict
// decoding and validation. configs/reference.yaml explains every key.
package config

// Config is one YAML file with the environment and the flags laid over it.
// The key of a field is its path of yaml tags, for example
// "uptrain.learning_rate".
type Config struct {
	// Name labels the row in tables and plots.
	Name string `yaml:"name"`
	// Base is the GPT-NeoX checkpoint folder to start from.
	Base string `yaml:"base"`
	// Work is the folder that holds what the commands write: converted/ by
	// convert, uptrain/ by uptrain, eval/ by eval.
	Work    string `yaml:"work"`
	Device  string `yaml:"device"`  // auto, cpu, cuda, cuda:N
	Threads int    `yaml:"threads"` // CPU threads; 0 takes all
	// Precision of a GPU's activations and products: bf16 or float32. The CPU
	// computes in float32.
	Precision string `yaml:"precision"`

	Convert Convert `yaml:"convert"`
	Data    Data    `yaml:"data"`
	Uptrain Uptrain `yaml:"uptrain"`
	Eval    Eval    `yaml:"eval"`
	Measure Measure `yaml:"measure"`
}

// Convert says how a plain checkpoint becomes an MLKV one.
type Convert struct {
	KVLayers int    `yaml:"kv_layers"` // layers that own keys and values; 0 keeps all
	KVHeads  int    `yaml:"kv_heads"`  // key/value heads in such a layer; 0 keeps all
	LayerMap string `yaml:"layer_map"` // owner of each layer, "0_0_2_2_4_4"; instead of kv_layers
	// ValueLayerMap is the owner of each layer's values, where it is another than
	// that of its keys, which kv_layers or layer_map gives.
	ValueLayerMap string `yaml:"value_layer_map"`
	// Start is how shared heads come about: pooling, or absorb on Calibration.
	Start       string      `yaml:"start"`
	Calibration Calibration `yaml:"calibration"`
	Absorb      Absorb      `yaml:"absorb"`
	Pooling     string      `yaml:"pooling"` // mean, running, first
	Grow        string      `yaml:"grow"`    // split, copy, none
	// SharedKeyRotary is "after" or "before".
	SharedKeyRotary string `yaml:"shared_key_rotary"`
	KeyValueMLP     bool   `yaml:"key_value_mlp"` // the authors' two-layer projections
	DType           string `yaml:"dtype"`         // of the weights written: float32, float16, bfloat16
	Format          string `yaml:"format"`        // of the folder: huggingface, authors
	Preset          string `yaml:"preset"`        // "" or "authors"
	Seed            int64  `yaml:"seed"`          // of random weights in key_value_mlp
}

// Calibration is the text that shared heads are fitted on by start absorb.
type Calibration struct {
	Path []string `yaml:"path"` // packed shards or text
	Rows int      `yaml:"rows"` // 0: 32 tokens for each coefficient of a regression
	Seed int64    `yaml:"seed"` // of the choice among packed rows
}

// Absorb refines start absorb.
type Absorb struct {
	Weighted bool `yaml:"weighted"` // errors count as queries and outputs feel them
	Refit    int  `yaml:"refit"`    // rounds of fitting output projections anew
}

// Data says what is trained on.
type Data struct {
	Train   []string `yaml:"train"`   // packed shards, or folders of them
	Heldout []string `yaml:"heldout"` // packed shards of held-out text
	// RowLength is the number of tokens in a packed row.
	RowLength int    `yaml:"row_length"`
	Packing   string `yaml:"packing"` // stream, authors
}

// Uptrain is the training recipe. Its defaults are the MLKV paper's.
type Uptrain struct {
	Rows         int     `yaml:"rows"`       // sequences in one step
	MicroRows    int     `yaml:"micro_rows"` // sequences in one pass; divides rows
	Steps        int     `yaml:"steps"`      // 0: epochs passes over the data
	Epochs       float64 `yaml:"epochs"`     // where steps is 0
	Seed         int64   `yaml:"seed"`       // of the order of rows
	LearningRate float64 `yaml:"learning_rate"`
	FinalRate    float64 `yaml:"final_rate"` // where the schedule ends
	Schedule     string  `yaml:"schedule"`   // cosine, linear, constant
	WarmupRatio  float64 `yaml:"warmup_ratio"`
	WarmupSteps  int     `yaml:"warmup_steps"` // instead of warmup_ratio where positive
	Beta1        float64 `yaml:"beta1"`
	Beta2        float64 `yaml:"beta2"`
	Eps          float64 `yaml:"eps"`
	WeightDecay  float64 `yaml:"weight_decay"`
	Decay        string  `yaml:"decay"` // matrices, all
	Clip         float64 `yaml:"clip"`  // 0 does not clip
	Distill      Distill `yaml:"distill"`

	LogEvery        int  `yaml:"log_every"`        // steps
	HeldoutEvery    int  `yaml:"heldout_every"`    // steps; 0: only at the start and the end
	HeldoutRows     int  `yaml:"heldout_rows"`     // 0: all
	CheckpointEvery int  `yaml:"checkpoint_every"` // steps; 0: only at the end and on signals
	KeepCheckpoints int  `yaml:"keep_checkpoints"` // 0: all
	TensorBoard     bool `yaml:"tensorboard"`
	// Recompute is what a GPU computes again in the backward pass instead of
	// keeping it: none, mlp or layer.
	Recompute string `yaml:"recompute"`
	// OnNaN is what a loss that is not a number does: stop or skip.
	OnNaN string `yaml:"on_nan"`
}

// Distill says what is learned from a teacher's logits beside the text.
type Distill struct {
	Weight      float64 `yaml:"weight"`      // share of the divergence in the loss; 0: no teacher
	Temperature float64 `yaml:"temperature"` // of both distributions
	Teacher     string  `yaml:"teacher"`     // checkpoint folder; "": base
}

// Eval says what is scored.
type Eval struct {
	Tasks       []string `yaml:"tasks"`
	Data        string   `yaml:"data"`         // folder of task files
	Shots       int      `yaml:"shots"`        // examples before every prompt
	ShotsSplit  string   `yaml:"shots_split"`  // that they come from; empty: the harness's choice
	Text        []string `yaml:"text"`         // files for the text task
	Heldout     []string `yaml:"heldout"`      // shards or text for the heldout task
	Limit       int      `yaml:"limit"`        // documents a task; 0: all
	Precision   string   `yaml:"precision"`    // of a GPU; eval does not read Config.Precision
	BatchTokens int      `yaml:"batch_tokens"` // tokens scored together; 0: what suits the device
	LogSamples  bool     `yaml:"log_samples"`
}

// Measure is how memory and speed of decoding are taken.
type Measure struct {
	Lengths   []int   `yaml:"lengths"`    // of whole sequences
	Batches   []int   `yaml:"batches"`    // in turn, until memory is full
	Steps     int     `yaml:"steps"`      // decode steps at the end of a sequence
	Seconds   float64 `yaml:"seconds"`    // fewer steps where they would take longer
	CacheBits int     `yaml:"cache_bits"` // of a cached element; 0: the device's own
	Memory    string  `yaml:"memory"`     // for a model and its cache, "40GiB"; "": what is free
	Largest   bool    `yaml:"largest"`    // search the largest batch of each length
	// ContextBatches are the batches whose longest context is searched.
	ContextBatches []int `yaml:"context_batches"`
	Seed           int64 `yaml:"seed"` // of weights, cache and tokens
}

// Default is the configuration before any file, variable or flag: the MLKV
// paper's recipe.
func Default() Config {
	return Config{
		Device: "auto", Precision: "bf16",
		Convert: Convert{
			Start: "pooling", Calibration: Calibration{Seed: 42},
			Pooling: "mean", Grow: "split", SharedKeyRotary: "after", DType: "float32", Format: "huggingface", Seed: 42,
		},
		Data: Data{RowLength: 2048, Packing: "stream"},
		Uptrain: Uptrain{
			Rows: 24, MicroRows: 12, Epochs: 1, Seed: 42,
			LearningRate: 6e-4, Schedule: "cosine", WarmupRatio: 0.2,
			Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.01, Decay: "matrices", Clip: 1,
			Distill:  Distill{Temperature: 1},
			LogEvery: 1, HeldoutEvery: 0, HeldoutRows: 0, CheckpointEvery: 1000, KeepCheckpoints: 2,
			TensorBoard: true, Recompute: "none", OnNaN: "stop",
		},
		Eval: Eval{
			Tasks: []string{"arc_easy", "lambada_openai", "piqa", "sciq"}, Precision: "float32",
		},
		// The MLKV authors' measure_memory.py: 2,000 tokens in the cache, one
		// more to begin with, 47 steps.
		Measure: Measure{
			Lengths: []int{2048},
			Batches: []int{8, 16, 24, 32, 40, 48, 64, 80, 100, 140, 220, 300, 380, 460, 620, 720, 940, 1100},
			Steps:   47, Seconds: 10, Largest: true, ContextBatches: []int{1}, Seed: 42,
		},
	}
}
