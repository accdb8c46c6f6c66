package main

import (
	"slices"
	"testing"

	"mlkv/internal/ui"
)

// Models of the hub are called after their repositories, however many there
// are; folders are left to be called after themselves.
func TestEvalNames(t *testing.T) {
	cache := "/cache/models--EleutherAI--pythia-70m/snapshots/3f1c"
	for _, c := range []struct {
		flag, configured string
		args, models     []string
		want             []string
	}{
		{args: []string{"EleutherAI/pythia-70m", "runs/mine", "pythia-160m@step3000"}, models: []string{cache, "runs/mine", cache}, want: []string{"pythia-70m", "", "pythia-160m@step3000"}},
		{args: []string{"EleutherAI/pythia-70m"}, models: []string{cache}, flag: "base", want: []string{"base"}},
		{configured: "MLKV-6", models: []string{"runs/mlkv-6/uptrain/model"}, want: []string{"MLKV-6"}},
		{configured: "MLKV-6", args: []string{"a"}, models: []string{"a"}, want: []string{""}},
	} {
		got, err := evalNames(c.flag, c.configured, c.args, c.models)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	if _, err := evalNames("x", "", []string{"a", "b"}, []string{"a", "b"}); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("one name for two models: %v", err)
	}
}
