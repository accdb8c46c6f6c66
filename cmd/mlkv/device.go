package main

import (
	"fmt"

	"mlkv/internal/config"
	"mlkv/internal/engine/device"
)

// device is the device that a configuration asks for.
func (a *app) device(c config.Config) device.Options {
	return device.Options{
		Name: c.Device, Threads: c.Threads, Precision: c.Precision, Recompute: c.Uptrain.Recompute,
		Warn: func(text string) { fmt.Fprintln(a.Streams.Err, "warning:", text) },
	}
}
