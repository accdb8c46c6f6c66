// Command mlkv converts GPT-NeoX checkpoints into MLKV checkpoints, uptrains
// them, evaluates them and measures what was saved.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"mlkv/internal/ui"
)

func main() { os.Exit(run(os.Args[1:], ui.System())) }

// run executes a command line and returns the exit code. The first SIGINT or
// SIGTERM asks the command to save and stop; a second one ends the process.
func run(args []string, streams ui.Streams) (code int) {
	defer func() {
		if p := recover(); p != nil {
			reportPanic(streams, p)
			code = ui.ExitFailed
		}
	}()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	err := execute(ctx, args, streams)
	switch code = ui.ExitCode(err); code {
	case ui.ExitOK:
	case ui.ExitInterrupted:
		fmt.Fprintln(streams.Err, "mlkv: interrupted")
	default:
		fmt.Fprintf(streams.Err, "mlkv: %v\n", err)
	}
	return code
}

// execute runs the command that args name. Errors before a command starts,
// such as an unknown flag, are of kind ui.Usagef.
func execute(ctx context.Context, args []string, streams ui.Streams) error {
	app := &app{Streams: streams}
	root := newRoot(app)
	root.SetArgs(args)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil || app.started {
		return err
	}
	if ui.ExitCode(err) == ui.ExitFailed {
		err = ui.Usagef("%w", err)
	}
	return errors.Join(err, fmt.Errorf("run '%s --help' for usage", cmd.CommandPath()))
}

// reportPanic tells of a fault in the program itself; MLKV_DEBUG=1 adds the
// stack.
func reportPanic(streams ui.Streams, p any) {
	fmt.Fprintf(streams.Err, "mlkv: internal error: %v\nThis is a fault in mlkv; MLKV_DEBUG=1 prints where it happened.\n", p)
	if os.Getenv("MLKV_DEBUG") == "1" {
		streams.Err.Write(debug.Stack())
	}
}
