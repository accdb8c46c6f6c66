package train

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mlkv/internal/checkpoint"
	"mlkv/internal/config"
	"mlkv/internal/data"
	"mlkv/internal/model"
	"mlkv/internal/provenance"
	"mlkv/internal/ui"
)

// inputs are a run's checkpoint and shards, opened and found to fit each other.
type inputs struct {
	base       *checkpoint.Checkpoint
	model      model.Config
	teacher    *checkpoint.Checkpoint // nil where nothing is learned from one
	loader     *data.Loader           // to train on
	heldLoader *data.Loader           // nil where there is no held-out text
	held       *heldout               // nil likewise
	schedule   Schedule
	identity   identity
	sums       map[string]string // SHA-256 of the inputs by their paths
	warnings   []string
}

// length is the number of tokens in a training row.
func (in *inputs) length() int { return in.loader.RowLength() }

func (in *inputs) close() {
	if in.heldLoader != nil {
		in.heldLoader.Close()
	}
	if in.loader != nil {
		in.loader.Close()
	}
	if in.teacher != nil {
		in.teacher.Close()
	}
	if in.base != nil {
		in.base.Close()
	}
}

// openInputs opens what the options name and checks it. Errors carry
// ui.ExitUsage or ui.ExitInput.
func openInputs(o Options) (*inputs, error) {
	in := &inputs{sums: map[string]string{}}
	if err := in.open(o); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

func (in *inputs) open(o Options) (err error) {
	if in.base, err = checkpoint.Open(o.Checkpoint); err != nil {
		return err
	}
	if err := in.base.CheckFinite(); err != nil {
		return err
	}
	in.model = in.base.Config()
	if err := in.openData(o.Config); err != nil {
		return err
	}
	if err := in.openTeacher(o.Config); err != nil {
		return err
	}
	if in.schedule, err = planSchedule(o.Config.Uptrain, in.loader.Rows()); err != nil {
		return err
	}
	return in.identify(o)
}

// openData opens the shards and checks them against the model.
func (in *inputs) openData(c config.Config) (err error) {
	if len(c.Data.Train) == 0 {
		return ui.Usagef("data.train: no shards to train on are given; mlkv prepare makes them")
	}
	in.loader, err = data.OpenLoader(c.Data.Train, data.LoaderOptions{
		Seed: c.Uptrain.Seed, Shuffle: true, Prefetch: 2 * c.Uptrain.Rows,
	})
	if err != nil {
		return err
	}
	if err := in.checkShards(in.loader, c.Data.Train); err != nil {
		return err
	}
	if len(c.Data.Heldout) == 0 {
		in.warnings = append(in.warnings, "data.heldout: no held-out shards are given, so only the training loss is known")
		return nil
	}
	if in.heldLoader, err = data.OpenLoader(c.Data.Heldout, data.LoaderOptions{}); err != nil {
		return err
	}
	if err := in.checkShards(in.heldLoader, c.Data.Heldout); err != nil {
		return err
	}
	if in.heldLoader.RowLength() != in.loader.RowLength() {
		return ui.Inputf("held-out shards %s: row length: expected %d as in the training shards, found %d",
			list(c.Data.Heldout), in.loader.RowLength(), in.heldLoader.RowLength())
	}
	if in.held, err = newHeldout(in.heldLoader, c.Uptrain.HeldoutRows); err != nil {
		return err
	}
	for _, row := range in.held.rows {
		if err := in.checkRow(row, c.Data.Heldout); err != nil {
			return err
		}
	}
	return nil
}

// checkShards compares shards with the model and its tokenizer.
func (in *inputs) checkShards(l *data.Loader, paths []string) error {
	if l.VocabSize() > in.model.VocabSize {
		return ui.Inputf("shards %s: vocabulary: expected ids below the model's vocabulary of %d (vocab_size of %s), found one of %d",
			list(paths), in.model.VocabSize, in.base.Dir(), l.VocabSize())
	}
	if l.RowLength() > in.model.MaxPositions {
		return ui.Inputf("shards %s: row length: expected at most the model's %d positions (max_position_embeddings of %s), found %d; prepare shards with a smaller data.row_length",
			list(paths), in.model.MaxPositions, in.base.Dir(), l.RowLength())
	}
	file, sum, err := in.tokenizerSum(in.base.Dir(), "the shards "+list(paths))
	if err != nil {
		return err
	}
	if sum != "" && sum != l.Tokenizer() {
		return ui.Inputf("shards %s: tokenizer: expected the one of the checkpoint (%s, SHA-256 %s), found one of SHA-256 %s; prepare the shards with the checkpoint's tokenizer",
			list(paths), file, sum, l.Tokenizer())
	}
	return nil
}

// tokenizerSum is the SHA-256 of the tokenizer in a checkpoint folder; empty
// where it has none, so that the tokenizer of what is named cannot be checked,
// which a warning says.
func (in *inputs) tokenizerSum(dir, of string) (file, sum string, err error) {
	file = filepath.Join(dir, "tokenizer.json")
	sum, err = provenance.FileSHA256(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		in.warnings = append(in.warnings, fmt.Sprintf("%s does not exist, so the tokenizer of %s is not checked", file, of))
		return file, "", nil
	case err != nil:
		return file, "", ui.Inputf("tokenizer: %w", err)
	}
	return file, sum, nil
}

// checkRow reports a token that the model has no embedding for, which only a
// damaged shard holds.
func (in *inputs) checkRow(row []uint16, paths []string) error {
	for i, id := range row {
		if int(id) >= in.model.VocabSize {
			return ui.Inputf("shards %s: token %d of a row: expected an id below the model's vocabulary of %d, found %d", list(paths), i, in.model.VocabSize, id)
		}
	}
	return nil
}

// identify collects what decides the run's numbers.
func (in *inputs) identify(o Options) (err error) {
	if in.identity, err = newIdentity(o.Config.Uptrain); err != nil {
		return err
	}
	add := func(name, path, sum string) {
		in.identity[name] = sum
		in.sums[path] = sum
	}
	addCheckpoint := func(name string, c *checkpoint.Checkpoint) error {
		weights, err := c.Checksum()
		if err != nil {
			return err
		}
		add(name+" weights (SHA-256)", c.Dir(), weights)
		file := filepath.Join(c.Dir(), "config.json")
		sum, err := provenance.FileSHA256(file)
		if err != nil {
			return ui.Inputf("%s: %w", name, err)
		}
		add(name+" config.json (SHA-256)", file, sum)
		return nil
	}
	if err := addCheckpoint("checkpoint", in.base); err != nil {
		return err
	}
	if in.teacher != nil {
		if err := addCheckpoint("teacher", in.teacher); err != nil {
			return err
		}
	}
	add("data.train (SHA-256)", list(o.Config.Data.Train), in.loader.Checksum())
	if in.heldLoader != nil {
		add("data.heldout (SHA-256)", list(o.Config.Data.Heldout), in.heldLoader.Checksum())
	}
	return nil
}

func list(paths []string) string { return strings.Join(paths, ", ") }

// planSchedule fixes the number of steps: the recipe's, or those that take
// every row of the data about epochs times and no row more often.
func planSchedule(u config.Uptrain, rows int64) (Schedule, error) {
	total := u.Steps
	if total == 0 {
		total = max(1, int(u.Epochs*float64(rows)/float64(u.Rows)))
	}
	warmup := u.WarmupSteps
	if warmup == 0 {
		warmup = WarmupSteps(u.WarmupRatio, total)
	}
	s := Schedule{Shape: u.Schedule, Peak: u.LearningRate, Final: u.FinalRate, Warmup: warmup, Total: total}
	return s, s.Validate()
}

// bytesOfParam is the size of a stored parameter, float32.
const bytesOfParam = 4

// checkpointBytes is the size of one checkpoint: weights and both moments.
func (in *inputs) checkpointBytes() int64 {
	return 3 * bytesOfParam * int64(in.model.Parameters())
}

// diskNeeded is what the run will hold on disk at most, in bytes: the
// checkpoints that are kept, one being written, and the final model.
func (in *inputs) diskNeeded(u config.Uptrain) int64 {
	kept := 1
	if u.CheckpointEvery > 0 {
		kept = (in.schedule.Total + u.CheckpointEvery - 1) / u.CheckpointEvery
	}
	if u.KeepCheckpoints > 0 {
		kept = min(kept, u.KeepCheckpoints+1)
	}
	return int64(kept)*in.checkpointBytes() + bytesOfParam*int64(in.model.Parameters())
}

// checkDisk reports a file system with less than the needed bytes free for the
// folder at path, which need not exist yet.
func checkDisk(path string, need int64) error {
	dir, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	free, known := diskFree(dir)
	if known && free < need {
		return fmt.Errorf("run folder %s: disk space: expected %s for the checkpoints and the model, found %s free; make room, or keep fewer checkpoints (uptrain.keep_checkpoints)",
			path, ui.FormatBytes(need), ui.FormatBytes(free))
	}
	return nil
}
