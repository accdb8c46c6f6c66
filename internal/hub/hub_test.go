package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mlkv/internal/ui"
)

// settings are those for a test hub, with a cache of their own.
func (h *testHub) settings(t testing.TB) Settings {
	return Settings{
		Endpoint: h.hub.URL, Cache: filepath.Join(t.TempDir(), "hub"),
		Timeout: 5 * time.Second, partSize: 64 << 10, pause: time.Millisecond,
	}
}

func (h *testHub) options(t testing.TB) Options {
	return Options{Repo: h.repo, Connections: 4, Retries: 4, Settings: h.settings(t)}
}

// run pulls and returns the outputs.
func run(ctx context.Context, o Options) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = Run(ctx, o, ui.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, Width: 80})
	return out.String(), errs.String(), err
}

// mustRun is run for a pull that must succeed; it returns the folder.
func mustRun(t *testing.T, o Options) string {
	t.Helper()
	out, errs, err := run(t.Context(), o)
	if err != nil {
		t.Fatalf("pull: %v\n%s", err, errs)
	}
	return strings.TrimSuffix(out, "\n")
}

// wantError checks an error's exit code and that its message holds all of want.
func wantError(t *testing.T, err error, code int, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("pull succeeded, expected an error")
	}
	if got := ui.ExitCode(err); got != code {
		t.Errorf("exit code: expected %d, found %d: %v", code, got, err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("message: expected %q in it, found %q", w, err)
		}
	}
	if strings.Contains(err.Error(), testToken) || strings.Contains(err.Error(), "signature") {
		t.Errorf("message tells a secret: %v", err)
	}
}

// wantContent compares the files of a folder with the hub's.
func (h *testHub) wantContent(t *testing.T, folder string, names ...string) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(folder, path)
		data, err := os.ReadFile(path)
		if f := h.files[filepath.ToSlash(rel)]; err != nil || f == nil || !bytes.Equal(data, f.data) {
			t.Errorf("%s: expected the hub's content, found %d other bytes (%v)", rel, len(data), err)
		}
		found++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(folder, filepath.FromSlash(name))); err != nil {
			t.Errorf("expected %s: %v", name, err)
		}
	}
	if found != len(names) {
		t.Errorf("files: expected %d, found %d", len(names), found)
	}
}

// wantCleanCache checks that every blob holds what its name says and that
// nothing unfinished is left.
func wantCleanCache(t *testing.T, cache string, finished bool) {
	t.Helper()
	filepath.WalkDir(cache, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name := filepath.Base(path)
		switch dir := filepath.Base(filepath.Dir(path)); {
		case dir == "blobs" && etagPattern.MatchString(name):
			f, err := os.Open(path)
			if err != nil {
				t.Error(err)
				return nil
			}
			defer f.Close()
			info, _ := f.Stat()
			if err := verify(t.Context(), f, File{Size: info.Size(), ETag: name}); err != nil {
				t.Errorf("blob with wrong content: %v", err)
			}
		case finished && (strings.Contains(name, "incomplete") || strings.Contains(name, "tmp") || strings.Contains(path, "staging")):
			t.Errorf("left behind: %s", path)
		case e.Type()&fs.ModeSymlink != 0:
			if _, err := os.Stat(path); err != nil {
				t.Errorf("link without its blob: %v", err)
			}
		}
		return nil
	})
}

func TestPullMakesTheCacheOfTheHubsTools(t *testing.T) {
	h := newTestHub(t, modelFiles(300_000)...)
	o := h.options(t)
	folder := mustRun(t, o)
	repo := filepath.Join(o.Settings.Cache, "models--EleutherAI--pythia-14m-deduped")
	if want := filepath.Join(repo, "snapshots", testCommit); folder != want {
		t.Errorf("standard output: expected %s, found %s", want, folder)
	}
	h.wantContent(t, folder, "config.json", "tokenizer.json", "model.safetensors")
	if ref, err := os.ReadFile(filepath.Join(repo, "refs", "main")); string(ref) != testCommit {
		t.Errorf("refs/main: expected %s, found %q (%v)", testCommit, ref, err)
	}
	link, err := os.Readlink(filepath.Join(folder, "model.safetensors"))
	if want := "../../blobs/" + h.files["model.safetensors"].sum(); link != want {
		t.Errorf("link: expected %s, found %s (%v)", want, link, err)
	}
	wantCleanCache(t, o.Settings.Cache, true)
	if n := h.count("GET /model.safetensors bytes="); n < 4 {
		t.Errorf("ranges of the large file: expected 5 of 64 KiB, found %d", n)
	}

	served := h.served.Load()
	if again := mustRun(t, o); again != folder {
		t.Errorf("second pull: expected %s, found %s", folder, again)
	}
	if more := h.served.Load() - served; more != 0 {
		t.Errorf("second pull: expected no content to be fetched, found %d bytes", more)
	}
}

func TestDataSetWithFolders(t *testing.T) {
	h := newTestHub(t,
		&testFile{path: "data/train 00#1.parquet", data: randomBytes(1, 200_000), large: true},
		&testFile{path: "data/a/b/empty.txt"},
		&testFile{path: "README.md", data: []byte("text")})
	h.kind, h.prefix, h.repo = DataSet, "/datasets", "EleutherAI/the_pile_deduplicated"
	for _, name := range []string{"pile-deduplicated@refs/pr/1", "datasets/EleutherAI/the_pile_deduplicated@" + testCommit} {
		o := h.options(t)
		o.Repo = name
		folder := mustRun(t, o)
		h.wantContent(t, folder, "data/train 00#1.parquet", "data/a/b/empty.txt", "README.md")
		ref, _ := os.ReadFile(filepath.Join(o.Settings.Cache, "datasets--EleutherAI--the_pile_deduplicated", "refs", "refs", "pr", "1"))
		if want := map[bool]string{true: testCommit}[strings.Contains(name, "pr")]; string(ref) != want {
			t.Errorf("%s: ref: expected %q, found %q", name, want, ref)
		}
	}
	o := h.options(t)
	o.Repo, o.DataSet, o.Include = h.repo, true, []string{"data/"}
	h.wantContent(t, mustRun(t, o), "data/train 00#1.parquet", "data/a/b/empty.txt")
}

// A hub that lists names only is asked for the rest of each file.
func TestMetadataFromHeaders(t *testing.T) {
	h := newTestHub(t, modelFiles(100_000)...)
	h.bare = true
	o := h.options(t)
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	wantCleanCache(t, o.Settings.Cache, true)
	if n := h.count("HEAD"); n != 3 {
		t.Errorf("HEAD requests: expected 3, one a file, found %d", n)
	}
	h.files["config.json"].etag = "../../../evil"
	_, _, err := run(t.Context(), h.options(t))
	wantError(t, err, ui.ExitInput, "config.json", "ETag", "evil")
}

func TestListFetchesNothing(t *testing.T) {
	h := newTestHub(t, modelFiles(100_000)...)
	o := h.options(t)
	o.Repo, o.List = "pythia-14m", true
	out, errs, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"model.safetensors", "97.7 KiB", "SHA-256", "3 files"} {
		if !strings.Contains(out, want) {
			t.Errorf("expected %q in the list, found\n%s", want, out)
		}
	}
	if !strings.Contains(errs, "pythia-14m is "+testRepo) {
		t.Errorf("expected the full name, found %q", errs)
	}
	if h.served.Load() != 0 {
		t.Errorf("expected no content, found %d bytes", h.served.Load())
	}
	if _, err := os.Stat(o.Settings.Cache); err == nil {
		t.Error("the cache was made")
	}
	o.JSON, o.Include = true, []string{"*"}
	out, _, err = run(t.Context(), o)
	var l Listing
	if err != nil || json.Unmarshal([]byte(out), &l) != nil || len(l.Files) != 6 || l.Missing != l.Bytes || l.Commit != testCommit {
		t.Errorf("--json: %v\n%s", err, out)
	}
}

func TestFilesAndPatterns(t *testing.T) {
	h := newTestHub(t, modelFiles(1000)...)
	o := h.options(t)
	o.Include, o.Exclude = []string{"*.bin", "onnx/*", "config.json"}, []string{"*.onnx"}
	h.wantContent(t, mustRun(t, o), "config.json", "pytorch_model.bin")

	o.Include = []string{"confg.json"}
	_, _, err := run(t.Context(), o)
	wantError(t, err, ui.ExitUsage, `"confg.json"`, "did you mean config.json", "--list")
	o.Include, o.Exclude = nil, []string{"*"}
	_, _, err = run(t.Context(), o)
	wantError(t, err, ui.ExitUsage, "none of its 6 files")
}

func TestOutFolder(t *testing.T) {
	h := newTestHub(t, modelFiles(200_000)...)
	for _, link := range []bool{false, true} {
		o := h.options(t)
		o.Out, o.Link = filepath.Join(t.TempDir(), "models", "tiny"), link
		folder := mustRun(t, o)
		if folder != o.Out {
			t.Errorf("standard output: expected %s, found %s", o.Out, folder)
		}
		h.wantContent(t, folder, "config.json", "tokenizer.json", "model.safetensors")
		info, err := os.Lstat(filepath.Join(folder, "model.safetensors"))
		if err != nil || !info.Mode().IsRegular() {
			t.Errorf("link %t: expected a plain file, found %v (%v)", link, info.Mode(), err)
		}
		blob, _ := os.Stat(filepath.Join(o.Settings.Cache, "models--EleutherAI--pythia-14m-deduped", "blobs", h.files["model.safetensors"].sum()))
		if os.SameFile(info, blob) != link {
			t.Errorf("link %t: shares the blob: %t", link, !link)
		}
		served := h.served.Load()
		_, _, err = run(t.Context(), o)
		wantError(t, err, ui.ExitUsage, "found 3 entries")
		o.Force = true
		mustRun(t, o)
		if h.served.Load() != served {
			t.Error("content was fetched again")
		}
	}
}

func TestVerifyRepairsTheCache(t *testing.T) {
	h := newTestHub(t, modelFiles(200_000)...)
	o := h.options(t)
	folder := mustRun(t, o)
	name := filepath.Join(folder, "model.safetensors")
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("damage"), 1000)
	f.Close()

	o.Verify, o.Settings.Offline = true, true
	_, _, err = run(t.Context(), o)
	wantError(t, err, ui.ExitInput, "model.safetensors", "damaged", "SHA-256")
	o.Settings.Offline = false
	_, errs, err := run(t.Context(), o)
	if err != nil || !strings.Contains(errs, "damaged") {
		t.Errorf("repair: %v, %q", err, errs)
	}
	h.wantContent(t, folder, "config.json", "tokenizer.json", "model.safetensors")

	// A blob that lost its end is told by its size alone.
	os.Truncate(name, 10)
	o.Verify = false
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
}

func TestDiskSpace(t *testing.T) {
	h := newTestHub(t, modelFiles(1000)...)
	o := h.options(t)
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		sum := strings.Repeat("a", 64)
		w.Write([]byte(`{"sha": "` + testCommit + `", "siblings": [{"rfilename": "model.safetensors", "size": 1152921504606846976, "lfs": {"sha256": "` + sum + `"}}]}`))
		return true
	}
	_, _, err := run(t.Context(), o)
	wantError(t, err, ui.ExitUsage, "disk of", "1024 PiB", "HF_HUB_CACHE")
}

// The rate of a pull with its verification, from a host of this machine.
func BenchmarkPull(b *testing.B) {
	const size = 128 << 20
	h := newTestHub(b, modelFiles(size)...)
	o := h.options(b)
	o.Settings.partSize = 8 << 20
	b.SetBytes(size)
	for b.Loop() {
		if _, _, err := run(b.Context(), o); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(o.Settings.Cache)
		b.StartTimer()
	}
}
