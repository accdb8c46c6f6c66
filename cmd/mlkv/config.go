package main

import "github.com/spf13/cobra"

func newConfigCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Look at the configuration of a run",
		Args:  cobra.ArbitraryArgs,
		RunE:  onlySubcommands,

		DisableFlagsInUseLine: true,
	}
	cmd.AddCommand(newConfigShowCmd(a))
	return cmd
}

func newConfigShowCmd(a *app) *cobra.Command {
	var origin bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the resolved configuration as YAML",
		Long: `show prints the configuration that a command would use: flags over the
environment (MLKV_UPTRAIN_STEPS), over the YAML file, over the defaults. The
output is itself a configuration file.`,
		Example: `  mlkv config show --config configs/mlkv-6.yaml
  mlkv config show --config configs/mlkv-6.yaml --set uptrain.steps=100 --origin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.resolve(cmd)
			if err != nil {
				return err
			}
			write := r.YAML
			if origin {
				write = r.YAMLWithOrigins
			}
			out, err := write()
			if err != nil {
				return err
			}
			_, err = a.Streams.Out.Write(out)
			return err
		},
	}
	a.configFlags(cmd)
	cmd.Flags().BoolVar(&origin, "origin", false, "say behind each value where it comes from")
	return cmd
}
