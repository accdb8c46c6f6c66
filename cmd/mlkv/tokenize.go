package main

import (
	"github.com/spf13/cobra"

	"mlkv/internal/data/tokenize"
	"mlkv/internal/hub"
)

func newTokenizeCmd(a *app) *cobra.Command {
	var o tokenize.Options
	cmd := &cobra.Command{
		Use:   "tokenize [TEXT...]",
		Short: "Turn text into token ids and back, or train a tokenizer",
		Long: `tokenize prints the token ids of each argument, or of files, or of standard
input, one line a text; with --decode it prints the text of ids.`,
		Example: `  mlkv tokenize --tokenizer pythia-160m "Hello, world!"
  mlkv tokenize --tokenizer pythia-160m --decode "12092 13 1533 2"
  mlkv tokenize --tokenizer pythia-160m --file notes.txt --json
  mlkv tokenize --tokenizer pythia-160m --jsonl --file texts.jsonl > ids.txt
  mlkv tokenize train --vocab 1024 --out tokenizer.json --glob '**/*.go' src`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Texts = args
			if o.Tokenizer, err = hub.ResolveTokenizer(o.Tokenizer); err != nil {
				return err
			}
			return tokenize.Run(cmd.Context(), o, a.Streams)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Tokenizer, "tokenizer", "t", "", "tokenizer.json, or a checkpoint `folder` that holds one")
	flags.StringArrayVarP(&o.Files, "file", "f", nil, "read a `file` as one text, - for standard input; may be repeated")
	flags.BoolVar(&o.JSONL, "jsonl", false, `read each line as JSON: an object with "text" (or "ids"), a string or an array`)
	flags.BoolVarP(&o.Decode, "decode", "d", false, "turn ids into text")
	flags.BoolVar(&o.JSON, "json", false, "print objects of text, ids and tokens")
	flags.BoolVar(&o.Count, "count", false, "print the number of tokens of each text")
	cmd.MarkFlagsMutuallyExclusive("count", "json")
	cmd.MarkFlagsMutuallyExclusive("count", "decode")
	_ = cmd.MarkFlagRequired("tokenizer")
	cmd.AddCommand(newTokenizeTrainCmd(a))
	return cmd
}

func newTokenizeTrainCmd(a *app) *cobra.Command {
	var o tokenize.TrainOptions
	cmd := &cobra.Command{
		Use:   "train INPUT...",
		Short: "Learn a byte-level BPE tokenizer from text",
		Long: `train learns a tokenizer of GPT-NeoX's form (NFC, GPT-2's pattern, byte-level
BPE) and writes it as a Hugging Face tokenizer.json. Inputs are those of prepare.
The same texts give the same file.`,
		Example: `  mlkv tokenize train --vocab 1024 --out tokenizer.json --glob '**/*.go' "$(go env GOROOT)/src"
  mlkv tokenize train --vocab 8192 --out tokenizer.json corpus/*.jsonl.zst`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Inputs = args
			return tokenize.Train(cmd.Context(), o, a.Streams)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Vocab, "vocab", 0, "number of token `ids`, at least 245")
	flags.StringVarP(&o.Out, "out", "o", "", "the `file` to write")
	flags.BoolVar(&o.Force, "force", false, "replace an existing file")
	flags.StringArrayVar(&o.Globs, "glob", nil, "`pattern` of the files to take from folders, ** for any folders, ! to refuse; may be repeated")
	flags.StringVar(&o.TextKey, "text-key", "text", "`field` of JSON that holds the text")
	_ = cmd.MarkFlagRequired("vocab")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}
