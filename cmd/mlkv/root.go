package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mlkv/internal/config"
	"mlkv/internal/ui"
)

// Groups of commands in the help of the program, in the way of the data.
const (
	groupPrepare = "prepare"
	groupTrain   = "train"
	groupUse     = "use"
	groupOther   = "other"
)

var groups = []*cobra.Group{
	{ID: groupPrepare, Title: "Checkpoints and text:"},
	{ID: groupTrain, Title: "Convert and train:"},
	{ID: groupUse, Title: "Score, generate and compare:"},
	{ID: groupOther, Title: "The program itself:"},
}

// commands are the subcommands in the order of the help.
var commands = []struct {
	group string
	new   func(*app) *cobra.Command
}{
	{groupPrepare, newPullCmd},
	{groupPrepare, newInitCmd},
	{groupPrepare, newInspectCmd},
	{groupPrepare, newPrepareCmd},
	{groupPrepare, newTokenizeCmd},
	{groupPrepare, newDataCmd},
	{groupTrain, newConvertCmd},
	{groupTrain, newUptrainCmd},
	{groupUse, newEvalCmd},
	{groupUse, newGenerateCmd},
	{groupUse, newMeasureCmd},
	{groupUse, newExportCmd},
	{groupUse, newReportCmd},
	{groupOther, newConfigCmd},
	{groupOther, newVersionCmd},
}

// app is what the commands of one invocation share.
type app struct {
	Streams ui.Streams

	// started is set when a command's own code begins.
	started bool
	// sources are the configuration flags of each command that has any.
	sources map[*cobra.Command]*config.Sources
}

func newRoot(a *app) *cobra.Command {
	cobra.EnableCommandSorting = false
	root := &cobra.Command{
		Use:   "mlkv",
		Short: "Share key/value heads across layers of GPT-NeoX models",
		Long: `mlkv converts a GPT-NeoX checkpoint (Pythia) so that its layers share key/value
heads (MLKV, arXiv 2406.09297), uptrains it, evaluates it and compares what the
smaller cache costs. Every command reads files and writes files, so each step
can be rerun and resumed alone.`,
		Example: `  # the row MLKV-6 of the paper, step by step
  mlkv convert  --config configs/mlkv-6.yaml
  mlkv uptrain  --config configs/mlkv-6.yaml
  mlkv eval     --config configs/mlkv-6.yaml
  mlkv report   runs/

  # what a run would use, and where each value comes from
  mlkv config show --config configs/mlkv-6.yaml --set uptrain.steps=100 --origin`,
		Args: cobra.ArbitraryArgs, // refused by onlySubcommands
		RunE: onlySubcommands,

		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
	}
	root.AddGroup(groups...)
	root.SetCompletionCommandGroupID(groupOther)
	root.SetHelpCommandGroupID(groupOther)
	root.SetFlagErrorFunc(flagError)
	for _, c := range commands {
		cmd := c.new(a)
		cmd.GroupID = c.group
		root.AddCommand(cmd)
		a.prepare(cmd)
	}
	return root
}

// onlySubcommands runs a command that does nothing but hold others: it prints
// its help, or an error for a name that is none of them.
func onlySubcommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	return ui.Usagef("unknown command %q for %q%s; it has %s",
		args[0], cmd.CommandPath(), ui.DidYouMean(args[0], names), strings.Join(names, ", "))
}

// prepare makes a command, and those below it, note when its own code begins.
// Cobra reports everything before that as a plain error.
func (a *app) prepare(cmd *cobra.Command) {
	if inner := cmd.RunE; inner != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.started = true
			return inner(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		a.prepare(sub)
	}
}

// bind defines a flag that stands for a configuration key and has its type and
// default, together with --config and --set.
func (a *app) bind(cmd *cobra.Command, key, flag, usage string) {
	s := a.configFlags(cmd)
	s.Flags[key] = config.AddFlag(cmd.Flags(), key, flag, usage)
}

// configFlags defines --config and --set on a command that reads the
// configuration without flags of its own for any key.
func (a *app) configFlags(cmd *cobra.Command) *config.Sources {
	if s := a.sources[cmd]; s != nil {
		return s
	}
	if a.sources == nil {
		a.sources = map[*cobra.Command]*config.Sources{}
	}
	s := &config.Sources{Flags: map[string]*pflag.Flag{}}
	a.sources[cmd] = s
	cmd.Flags().StringVarP(&s.File, "config", "c", "", "YAML `file`; configs/reference.yaml explains every key")
	cmd.Flags().StringArrayVar(&s.Set, "set", nil, "set any `key=value` of the configuration; may be repeated")
	return s
}

// config is the configuration of a command: flags over the environment
// (MLKV_UPTRAIN_STEPS), over the file, over the defaults.
func (a *app) config(cmd *cobra.Command) (config.Config, error) {
	r, err := a.resolve(cmd)
	return r.Config, err
}

// resolve is config with the origin of each value.
func (a *app) resolve(cmd *cobra.Command) (config.Resolved, error) {
	return config.Resolve(*a.configFlags(cmd))
}

// flagError names the flag that may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ui.Usagef("%w", err)
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	slices.Sort(names)
	return ui.Usagef("%w%s", err, ui.DidYouMean("--"+unknown.GetSpecifiedName(), names))
}
