package hub

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mlkv/internal/ui"
)

func TestOffline(t *testing.T) {
	h := newTestHub(t, modelFiles(100_000)...)
	o := h.options(t)
	offline := o
	offline.Settings.Offline = true
	_, _, err := run(t.Context(), offline)
	wantError(t, err, ui.ExitInput, "offline mode", "does not hold revision main")

	folder := mustRun(t, o)
	requests := h.count("")
	if got := mustRun(t, offline); got != folder {
		t.Errorf("expected %s, found %s", folder, got)
	}
	offline.Verify, offline.Out = true, filepath.Join(t.TempDir(), "out")
	h.wantContent(t, mustRun(t, offline), "config.json", "tokenizer.json", "model.safetensors")
	offline.Out, offline.Include = "", []string{"pytorch_model.bin"}
	_, _, err = run(t.Context(), offline)
	wantError(t, err, ui.ExitInput, "no file matches", "unset the variable")
	offline.Include, offline.Repo = nil, testRepo+"@"+strings.Repeat("1", 40)
	_, _, err = run(t.Context(), offline)
	wantError(t, err, ui.ExitInput, "does not hold commit 1111")
	offline.Repo, offline.List = testRepo, true
	_, _, err = run(t.Context(), offline)
	wantError(t, err, ui.ExitUsage, "--list")
	offline.List = false
	os.Remove(filepath.Join(folder, "model.safetensors"))
	_, _, err = run(t.Context(), offline)
	wantError(t, err, ui.ExitInput, "no model.safetensors")
	if more := h.count("") - requests; more != 0 {
		t.Errorf("offline: expected no request, found %d", more)
	}
}

func TestResolve(t *testing.T) {
	h := newTestHub(t, modelFiles(1000)...)
	o := h.options(t)
	t.Setenv("HF_HUB_CACHE", o.Settings.Cache)
	t.Setenv("HF_ENDPOINT", "")
	t.Chdir(t.TempDir())

	refused := func(name string, want ...string) {
		t.Helper()
		_, err := Resolve(name)
		if err == nil {
			t.Fatalf("%s: resolved, expected an error", name)
		}
		wantError(t, err, ui.ExitInput, want...)
	}
	refused("pythia-14m", "mlkv pull pythia-14m")
	refused(testRepo+"@step3", "step3", "mlkv pull "+testRepo+"@step3")
	refused("models/pythia-14m", "mlkv pull pythia-14m --out models/pythia-14m")

	o.Include = []string{"tokenizer.json"}
	folder := mustRun(t, o)
	if got, err := ResolveTokenizer("pythia-14m"); got != folder || err != nil {
		t.Errorf("tokenizer: expected %s, found %s (%v)", folder, got, err)
	}
	refused("pythia-14m", "no config.json", "mlkv pull pythia-14m")
	o.Include = nil
	mustRun(t, o)
	for _, name := range []string{"pythia-14m", testRepo, testRepo + "@" + testCommit} {
		if got, err := Resolve(name); got != folder || err != nil {
			t.Errorf("%s: expected %s, found %s (%v)", name, folder, got, err)
		}
	}
	// Paths are never a hub's names.
	os.MkdirAll(filepath.FromSlash("a/b"), 0o777)
	os.Mkdir("pythia-70m", 0o777)
	for _, name := range []string{"a/b", "pythia-70m", "nowhere", "./x", "/x/y", "a/b/c", "../x"} {
		if got, err := Resolve(name); got != name || err != nil {
			t.Errorf("%s: expected itself, found %s (%v)", name, got, err)
		}
	}
}

func TestResolveWantsEveryShard(t *testing.T) {
	h := newTestHub(t,
		&testFile{path: "config.json", data: []byte("{}")},
		&testFile{path: "model.safetensors.index.json", data: []byte(`{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}`)},
		&testFile{path: "model-00001-of-00002.safetensors", data: []byte("1"), large: true},
		&testFile{path: "model-00002-of-00002.safetensors", data: []byte("2"), large: true})
	o := h.options(t)
	t.Setenv("HF_HUB_CACHE", o.Settings.Cache)
	o.Include = []string{"*00001*", "*.json"}
	mustRun(t, o)
	_, err := Resolve(testRepo)
	wantError(t, err, ui.ExitInput, "no model-00002-of-00002.safetensors", "mlkv pull "+testRepo)
	o.Include = nil
	folder := mustRun(t, o)
	if got, err := Resolve(testRepo); got != folder || err != nil {
		t.Errorf("expected %s, found %s (%v)", folder, got, err)
	}
	// A link whose blob was removed counts as missing.
	os.Remove(filepath.Join(o.blobs(), h.files["model-00001-of-00002.safetensors"].sum()))
	_, err = Resolve(testRepo)
	wantError(t, err, ui.ExitInput, "no model-00001-of-00002.safetensors")
}

// On a terminal every file on its way has a line above that of the whole.
func TestBarsOnATerminal(t *testing.T) {
	var out bytes.Buffer
	files := []File{{Path: "a/one.bin", Size: 100}, {Path: "two.bin", Size: 300}}
	b := newBars(ui.Streams{Err: &out, Terminal: true, Width: 100}, "all", files, map[string]int64{"two.bin": 100})
	one, two := b.begin(files[0]), b.begin(files[1])
	one.add(50)
	two.add(100)
	b.printf("a remark")
	one.set(0) // begun anew
	b.all.Add(0)
	out.Reset()
	b.screen.draw("")
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 || !strings.Contains(lines[0], "one.bin") || !strings.Contains(lines[1], "two.bin") || !strings.Contains(lines[2], "all:") {
		t.Errorf("expected a line for one.bin, two.bin and all, found %q", lines)
	}
	one.end()
	two.end()
	b.end()
	if len(b.screen.lines) != 0 || b.screen.drawn != 0 {
		t.Errorf("expected an empty screen, found %d lines", b.screen.drawn)
	}
}

func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out}
	bottom := s.add()
	top := s.add()
	bottom.Write([]byte("\r\x1b[2K 10% all"))
	top.Write([]byte("\r 50% file"))
	out.Reset()
	top.Write([]byte("\r\x1b[2Kdone with it\n\r 60% file"))
	if want := "\x1b[2A\r\x1b[Jdone with it\n 60% file\n 10% all\n"; out.String() != want {
		t.Errorf("expected %q, found %q", want, out.String())
	}
	out.Reset()
	s.remove(top)
	if want := "\x1b[2A\r\x1b[J 10% all\n"; out.String() != want {
		t.Errorf("expected %q, found %q", want, out.String())
	}
}
