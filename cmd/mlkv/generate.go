package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"mlkv/internal/hub"
	"mlkv/internal/infer"
	"mlkv/internal/ui"
)

func newGenerateCmd(a *app) *cobra.Command {
	var o infer.Options
	var file string
	cmd := &cobra.Command{
		Use:   "generate CHECKPOINT",
		Short: "Continue prompts with a key/value cache that layers share",
		Long: `generate continues prompts with the model in CHECKPOINT, by the most likely token
or, with --temperature, by sampling. What is sampled depends on --seed and the
prompt's number, not on the prompts beside it. The text of a single prompt is
printed as it comes.`,
		Example: `  mlkv generate models/pythia-160m --prompt "The key/value cache"
  mlkv generate runs/mlkv-6/uptrain/model --prompt "func main() {" --stop "}" --echo
  mlkv generate models/pythia-160m --prompts prompts.jsonl --temperature 0.8 --top-p 0.95 --seed 7 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config(cmd)
			if err != nil {
				return err
			}
			if file != "" {
				more, err := readPrompts(file, a.Streams.In)
				if err != nil {
					return err
				}
				o.Prompts = append(o.Prompts, more...)
			}
			if o.Model, err = hub.Resolve(args[0]); err != nil {
				return err
			}
			o.Device = a.device(c)
			return infer.Run(cmd.Context(), o, a.Streams)
		},
	}
	a.bind(cmd, "device", "device", "auto, cpu, cuda or cuda:N")
	a.bind(cmd, "threads", "threads", "CPU threads; 0 takes all")
	a.bind(cmd, "precision", "precision", "of a GPU: bf16 or float32")
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.Prompts, "prompt", "p", nil, "`text` to continue; may be repeated")
	flags.StringVar(&file, "prompts", "", "`file` of prompts: JSON strings, or objects with a prompt; - is standard input")
	flags.IntVarP(&o.MaxTokens, "max-tokens", "n", 64, "tokens to add at most")
	flags.Float64Var(&o.Temperature, "temperature", 0, "of sampling; 0 takes the most likely token")
	flags.IntVar(&o.TopK, "top-k", 0, "sample from that many tokens; 0: all")
	flags.Float64Var(&o.TopP, "top-p", 1, "sample from the fewest tokens that hold this share of the probability")
	flags.Uint64Var(&o.Seed, "seed", 0, "of sampling")
	flags.StringArrayVar(&o.Stop, "stop", nil, "end before this `text`; may be repeated")
	flags.IntVar(&o.Rows, "rows", 8, "prompts continued together")
	flags.IntVar(&o.CacheBits, "cache-bits", 0, "bits of an element of the key/value cache; 0: the device's own")
	flags.BoolVar(&o.Echo, "echo", false, "print the prompt before its continuation")
	flags.BoolVar(&o.JSON, "json", false, "print one JSON object a prompt")
	return cmd
}

// readPrompts reads a stream of JSON values, each a string or an object with
// the field "prompt".
func readPrompts(file string, stdin io.Reader) ([]string, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, ui.Inputf("prompts: %w", err)
		}
		defer f.Close()
		in = f
	}
	var prompts []string
	for dec := json.NewDecoder(in); ; {
		var raw json.RawMessage
		if err := dec.Decode(&raw); errors.Is(err, io.EOF) {
			return prompts, nil
		} else if err != nil {
			return nil, ui.Inputf("prompts %s: value %d: expected JSON: %w", file, len(prompts)+1, err)
		}
		var text string
		var object struct{ Prompt *string }
		switch {
		case json.Unmarshal(raw, &text) == nil && raw[0] == '"':
			prompts = append(prompts, text)
		case json.Unmarshal(raw, &object) == nil && object.Prompt != nil:
			prompts = append(prompts, *object.Prompt)
		default:
			return nil, ui.Inputf("prompts %s: value %d: expected a string or an object with the field \"prompt\", found %.40s", file, len(prompts)+1, raw)
		}
	}
}
