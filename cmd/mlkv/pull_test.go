package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/ui"
)

// TestPullThenUse serves a checkpoint as a hub does, pulls it and converts it
// by its name.
func TestPullThenUse(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("tiny.yaml", []byte("vocab_size: 300\nhidden_size: 32\nnum_hidden_layers: 2\nnum_attention_heads: 4\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	mlkv := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		if got := run(args, ui.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, Width: 80}); got != want {
			t.Fatalf("mlkv %s: exit code %d, expected %d\n%s", strings.Join(args, " "), got, want, &errs)
		}
		return out.String(), errs.String()
	}
	mlkv(0, "init", "tiny.yaml", "--out", "served")
	hub := httptest.NewServer(serveFolder(t, "served", "EleutherAI/pythia-14m-deduped"))
	defer hub.Close()
	for name, value := range map[string]string{"HF_ENDPOINT": hub.URL, "HF_HOME": filepath.Join(dir, "hf"), "HF_HUB_CACHE": "", "HF_HUB_OFFLINE": "", "HF_TOKEN": ""} {
		t.Setenv(name, value)
	}
	out, _ := mlkv(0, "pull", "pythia-14m", "--list")
	if !strings.Contains(out, "model.safetensors") || !strings.Contains(out, "2 files") {
		t.Errorf("--list: %s", out)
	}
	out, _ = mlkv(0, "pull", "pythia-14m")
	if want := filepath.Join(dir, "hf", "hub", "models--EleutherAI--pythia-14m-deduped", "snapshots"); filepath.Dir(strings.TrimSpace(out)) != want {
		t.Errorf("standard output: expected a folder in %s, found %s", want, out)
	}
	mlkv(0, "convert", "pythia-14m", "--kv-heads", "1", "--out", "mqa")
	if out, _ = mlkv(0, "inspect", "mqa"); !strings.Contains(out, "1 of 4 heads") {
		t.Errorf("inspect: %s", out)
	}
	if _, errs := mlkv(3, "pull", "EleutherAI/nothing"); !strings.Contains(errs, "no such model") {
		t.Errorf("message: %s", errs)
	}
	if _, errs := mlkv(2, "pull", "pythia-14m", "confg.json"); !strings.Contains(errs, "did you mean config.json") {
		t.Errorf("message: %s", errs)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := execute(ctx, []string{"pull", "pythia-14m"}, ui.Streams{Out: &strings.Builder{}, Err: &strings.Builder{}})
	if !errors.Is(err, context.Canceled) || ui.ExitCode(err) != ui.ExitInterrupted {
		t.Errorf("interrupted: expected exit code 130, found %v", err)
	}
}

// serveFolder is a hub that has the files of one folder, all of them large ones.
func serveFolder(t *testing.T, folder, repo string) http.Handler {
	type object = map[string]any
	const commit = "0123456789abcdef0123456789abcdef01234567"
	var list []object
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, object{"rfilename": e.Name(), "lfs": object{"size": len(data), "sha256": fmt.Sprintf("%x", sha256.Sum256(data))}})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/models/"+repo+"/revision/main", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(object{"sha": commit, "siblings": list})
	})
	mux.Handle("GET /"+repo+"/resolve/"+commit+"/", http.StripPrefix("/"+repo+"/resolve/"+commit, http.FileServer(http.Dir(folder))))
	return mux
}
