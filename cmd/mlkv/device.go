package main

import (
	"fmt"

	"mlkv/internal/config"
	"mlkv/internal/engine"
	"mlkv/internal/engine/device"
)

// device is the device that a configuration asks for.
func (a *app) device(c config.Config) device.Options {
	return device.Options{
		Name: c.Device, Threads: c.Threads, Precision: c.Precision, Recompute: c.Uptrain.Recompute,
		Warn: func(text string) { fmt.Fprintln(a.Streams.Err, "warning:", text) },
	}
}

// openObserver opens a device that can show activations: the one asked for, or
// the CPU where auto stands for one that cannot.
func openObserver(o device.Options) (engine.Engine, error) {
	e, err := device.Open(o)
	if err != nil || o.Name != "auto" {
		return e, err
	}
	if _, ok := e.(engine.Observer); ok {
		return e, nil
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	o.Name = "cpu"
	return device.Open(o)
}
