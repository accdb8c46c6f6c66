package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"mlkv/internal/engine/device"
	"mlkv/internal/provenance"
)

func newVersionCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, how the program was built and what it computes with",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := provenance.ReadBuild()
			if asJSON {
				enc := json.NewEncoder(a.Streams.Out)
				enc.SetIndent("", "  ")
				return enc.Encode(b)
			}
			e, err := device.Open(device.Options{Name: "cpu"})
			if err != nil {
				return err
			}
			defer e.Close()
			cpu := e.Info()
			_, err = fmt.Fprintf(a.Streams.Out, "mlkv %s\ncommit    %s\ngo        %s\nplatform  %s\ntags      %s\ncgo       %t\ncpu       %s, %d threads, %s\n",
				b.Version, orNone(b.Commit), b.GoVersion, b.Platform, orNone(b.Tags), b.CGO, cpu.Name, cpu.Threads, cpu.Backend)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
