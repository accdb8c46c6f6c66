package main

import (
	"os"

	"github.com/spf13/cobra"

	"mlkv/internal/hub"
)

func newPullCmd(a *app) *cobra.Command {
	var o hub.Options
	cmd := &cobra.Command{
		Use:   "pull REPO[@REVISION] [FILE...]",
		Short: "Fetch a model or a data set from a Hugging Face hub",
		Long: `pull fetches files of a repository into the cache that the hub's own tools use,
verifies each by size and checksum, and prints the folder that holds them. It
goes on from what an interrupted pull left. convert, uptrain, eval and the
others then take the same REPO in the place of a checkpoint folder.

REPO is ORG/NAME, datasets/ORG/NAME, or a short name: pythia-14m to pythia-12b
(the models trained on the deduplicated Pile), pile-deduplicated (its text),
pile-pythia (its tokens in the order of Pythia's training) and pile-mlkv (the
rows that the MLKV authors uptrained on). A FILE may be a pattern, in which *
also stands for slashes. Without any, a data set is taken whole, and of a model
its configuration, its tokenizer and one form of its weights, safetensors where
there are any.

The environment is that of the hub's tools: HF_ENDPOINT, HF_TOKEN, HF_HOME,
HF_HUB_CACHE, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT.`,
		Example: `  mlkv pull pythia-160m
  mlkv pull pythia-160m@step3000 --out models/pythia-160m-step3000
  mlkv pull pile-deduplicated 'data/train-0000*' --list
  mlkv pull datasets/EleutherAI/the_pile_deduplicated --exclude '*.md'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Repo, o.Include = args[0], append(o.Include, args[1:]...)
			if o.Settings, err = hub.Environment(os.Getenv); err != nil {
				return err
			}
			return hub.Run(cmd.Context(), o, a.Streams)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.DataSet, "dataset", false, "REPO is a data set")
	flags.StringArrayVar(&o.Include, "include", nil, "take files that match a `pattern`, as FILE does; may be repeated")
	flags.StringArrayVar(&o.Exclude, "exclude", nil, "leave out files that match a `pattern`; may be repeated")
	flags.BoolVar(&o.List, "list", false, "show the files, their sizes and what is cached; fetch nothing")
	flags.StringVarP(&o.Out, "out", "o", "", "also fill this `folder` with the files")
	flags.BoolVar(&o.Link, "link", false, "fill it with hard links to the cache instead of copies")
	flags.BoolVar(&o.Force, "force", false, "replace the folder where it exists")
	flags.BoolVar(&o.Verify, "verify", false, "compare the checksums of what is cached, too, and fetch anew what is damaged")
	flags.IntVarP(&o.Connections, "connections", "j", 8, "requests under way at once")
	flags.IntVar(&o.Retries, "retries", 8, "attempts in a row without progress before giving up")
	flags.BoolVar(&o.JSON, "json", false, "print the result as JSON")
	return cmd
}

// resolveAll turns the names of checkpoints into folders.
func resolveAll(names []string) (folders []string, err error) {
	for _, name := range names {
		folder, err := hub.Resolve(name)
		if err != nil {
			return nil, err
		}
		folders = append(folders, folder)
	}
	return folders, nil
}
