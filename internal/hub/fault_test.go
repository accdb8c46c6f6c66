package hub

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mlkv/internal/ui"
)

// blobs is the folder of blobs of the test repository.
func (o Options) blobs() string {
	return filepath.Join(o.Settings.Cache, "models--EleutherAI--pythia-14m-deduped", "blobs")
}

func TestDroppedConnectionsAreResumed(t *testing.T) {
	h := newTestHub(t, modelFiles(1<<20)...)
	var n atomic.Int64
	h.beforeCDN = func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
		if k := n.Add(1); k%3 != 0 {
			h.drop(w, r, f, int(k*7919)%40_000)
		}
		return false
	}
	o := h.options(t)
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	if size := int64(1<<20 + 10_000); h.served.Load() > size {
		t.Errorf("bytes: expected nothing twice, at most %d in all, found %d", size, h.served.Load())
	}
	if h.leaked.Load() {
		t.Error("the other host saw a token")
	}
}

// partialHave is what the cache holds of a file.
func partialHave(t *testing.T, o Options, f *testFile) int64 {
	repo, err := o.repo()
	if err != nil {
		t.Fatal(err)
	}
	return cachedBytes(o.Settings.Cache, repo, File{Size: int64(len(f.data)), ETag: f.sum()})
}

func TestHopelessConnection(t *testing.T) {
	h := newTestHub(t, modelFiles(200_000)...)
	var healed atomic.Bool
	h.beforeCDN = func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
		if from, _, _ := span(r, len(f.data)); from > 0 && !healed.Load() {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	o := h.options(t)
	_, _, err := run(t.Context(), o)
	wantError(t, err, ui.ExitFailed, "model.safetensors", "attempt 5 of 5")
	healed.Store(true)
	left := partialHave(t, o, h.files["model.safetensors"])
	served := h.served.Load()
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	const small = 4000 // at most, in the other files
	if more, most := h.served.Load()-served, 200_000-left+small; more > most {
		t.Errorf("second pull: expected at most the missing %d bytes, found %d", most, more)
	}
}

func TestHostIgnoresRange(t *testing.T) {
	h := newTestHub(t, modelFiles(400_000)...)
	h.noRanges = true
	var drops atomic.Int64
	h.beforeCDN = func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
		if r.Header.Get("Range") == "" && drops.Add(1) == 1 {
			h.drop(w, r, f, 300_000)
		}
		return false
	}
	o := h.options(t)
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	wantCleanCache(t, o.Settings.Cache, true)
	if drops.Load() < 2 {
		t.Errorf("whole files asked for: expected 2, found %d", drops.Load())
	}
}

// What does not match its checksum or size never gets a name.
func TestWrongContent(t *testing.T) {
	const size = 200_000
	for _, c := range []struct {
		name, want string
		cdn        func(w http.ResponseWriter, r *http.Request, f *testFile) bool
	}{
		{"other bytes", "SHA-256: expected", func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
			from, to, _ := span(r, size)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, size))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(randomBytes(77, to-from))
			return true
		}},
		{"other size", "size: expected 200000 bytes, found 150000", func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
			from, to, _ := span(r, size)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, 150_000))
			w.WriteHeader(http.StatusPartialContent)
			return true
		}},
		{"whole of other size", "size: expected 200000 bytes, found 5", func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
			w.Header().Set("Content-Length", "5")
			w.Write([]byte("short"))
			return true
		}},
		{"endless", "size: expected 200000 bytes, found more", func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
			for w.(http.Flusher).Flush(); r.Context().Err() == nil; {
				if _, err := w.Write(f.data); err != nil {
					break
				}
			}
			return true
		}},
		{"other range", "Content-Range: expected bytes", func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 7-8/%d", size))
			w.WriteHeader(http.StatusPartialContent)
			return true
		}},
		{"no range", `Content-Range: expected bytes FROM-TO/TOTAL, found "lines 1-2/3"`, func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
			w.Header().Set("Content-Range", "lines 1-2/3")
			w.WriteHeader(http.StatusPartialContent)
			return true
		}},
		{"beyond the end", "fewer bytes than it announced", func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newTestHub(t, modelFiles(size)...)
			h.beforeCDN = c.cdn
			o := h.options(t)
			o.Retries = 1
			_, _, err := run(t.Context(), o)
			code := ui.ExitInput
			if strings.HasPrefix(c.want, "Content-Range") {
				code = ui.ExitFailed
			}
			wantError(t, err, code, "model.safetensors", c.want)
			blob := filepath.Join(o.blobs(), h.files["model.safetensors"].sum())
			if _, err := os.Stat(blob); err == nil {
				t.Error("the blob is there")
			}
			if entries, _ := os.ReadDir(filepath.Join(o.blobs(), "..", "snapshots")); len(entries) > 0 {
				t.Errorf("a snapshot is there: %v", entries)
			}
			wantCleanCache(t, o.Settings.Cache, false)
			if _, err := os.Stat(blob + ".mlkv.incomplete"); err == nil && c.name == "other bytes" {
				t.Error("wrong content was kept")
			}
		})
	}
}

// A small file's checksum is git's.
func TestWrongSmallFile(t *testing.T) {
	h := newTestHub(t, modelFiles(1000)...)
	h.files["config.json"].etag = strings.Repeat("5", 40)
	_, _, err := run(t.Context(), h.options(t))
	wantError(t, err, ui.ExitInput, "config.json", "git SHA-1: expected 5555", "not kept")
}

// What another tool or an older pull left may be wrong; it costs one more try.
func TestWrongLeftovers(t *testing.T) {
	h := newTestHub(t, modelFiles(200_000)...)
	f := h.files["model.safetensors"]
	record := func(part int64, counts ...int64) []byte {
		b := append(randomBytes(5, len(f.data)), partialMagic...)
		for _, n := range append([]int64{part}, counts...) {
			b = binary.LittleEndian.AppendUint64(b, uint64(n))
		}
		return b
	}
	for _, c := range []struct {
		name, file string
		data       []byte
		most       int // bytes to fetch of it
	}{
		{"good beginning of another tool", ".incomplete", f.data[:150_000], 50_000},
		{"wrong beginning of another tool", ".incomplete", randomBytes(5, 150_000), 250_000},
		{"too long", ".incomplete", randomBytes(5, 250_000), 200_000},
		{"whole, record taken off", ".mlkv.incomplete", f.data, 0},
		{"wrong whole", ".mlkv.incomplete", randomBytes(5, 200_000), 200_000},
		{"no record", ".mlkv.incomplete", randomBytes(5, 201_000), 200_000},
		{"record that lies", ".mlkv.incomplete", record(1<<17, 1<<17, 50_000), 222_000},
		{"record beyond its part", ".mlkv.incomplete", record(1<<17, 1<<18, 0), 200_000},
		{"record of no parts", ".mlkv.incomplete", record(1 << 62), 200_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := h.options(t)
			if err := os.MkdirAll(o.blobs(), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(o.blobs(), f.sum()+c.file), c.data, 0o666); err != nil {
				t.Fatal(err)
			}
			h.served.Store(0)
			h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
			small := int64(len(h.files["config.json"].data) + len(h.files["tokenizer.json"].data))
			if n := h.served.Load() - small; n > int64(c.most) {
				t.Errorf("bytes: expected at most %d, found %d", c.most, n)
			}
			wantCleanCache(t, o.Settings.Cache, c.name != "too long")
		})
	}
}

func TestStatuses(t *testing.T) {
	status := func(code int, header ...string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			return true
		}
	}
	for _, c := range []struct {
		name   string
		change func(h *testHub, o *Options)
		code   int
		want   []string
	}{
		{"401", func(h *testHub, o *Options) { h.private = true }, ui.ExitInput,
			[]string{testRepo, "401", "HF_TOKEN", "gated or private", "restricted"}},
		{"401 with a bad token", func(h *testHub, o *Options) {
			h.private = true
			o.Settings.Token, o.Settings.tokenFrom = "hf_other", "HF_TOKEN"
			h.before = status(401, "X-Error-Message", "Invalid credentials in Authorization header")
		}, ui.ExitInput, []string{"the token of HF_TOKEN does not allow it", "Invalid credentials"}},
		{"403 gated", func(h *testHub, o *Options) {
			o.Settings.Token, o.Settings.tokenFrom = testToken, "/home/x/token"
			h.before = status(403, "X-Error-Code", "GatedRepo")
		}, ui.ExitInput, []string{"/home/x/token", "accept the conditions on the model's page"}},
		{"404 repository", func(h *testHub, o *Options) { o.Repo = "EleutherAI/pythia-15m" }, ui.ExitInput,
			[]string{"EleutherAI/pythia-15m: no such model", "404"}},
		{"404 revision", func(h *testHub, o *Options) { o.Repo += "@step7" }, ui.ExitInput,
			[]string{testRepo, `no revision "step7"`}},
		{"404 file", func(h *testHub, o *Options) {
			h.before = func(w http.ResponseWriter, r *http.Request) bool {
				return strings.Contains(r.URL.Path, "config.json") && status(404, "X-Error-Code", "EntryNotFound")(w, r)
			}
		}, ui.ExitInput, []string{testRepo + ": config.json: no such file at revision \"main\""}},
		{"500 for ever", func(h *testHub, o *Options) { h.before = status(500) }, ui.ExitFailed,
			[]string{"500 Internal Server Error", "attempt 5 of 5"}},
		{"429 for an hour", func(h *testHub, o *Options) { h.before = status(429, "Retry-After", "3600") }, ui.ExitFailed,
			[]string{"429", "asks to wait 1h00m", "again then"}},
		{"418", func(h *testHub, o *Options) { h.before = status(418) }, ui.ExitFailed, []string{"418"}},
		{"redirects for ever", func(h *testHub, o *Options) { h.before = status(302, "Location", "/again") }, ui.ExitFailed,
			[]string{"at most 10 redirects"}},
		{"redirect to a file", func(h *testHub, o *Options) { h.before = status(302, "Location", "file:///etc/passwd") }, ui.ExitFailed,
			[]string{"redirect from http to file is refused"}},
		{"no hub", func(h *testHub, o *Options) { h.hub.Close() }, ui.ExitFailed, []string{"refused", "attempt 5 of 5"}},
		{"no JSON", func(h *testHub, o *Options) {
			h.before = func(w http.ResponseWriter, r *http.Request) bool { w.Write([]byte("<html>")); return true }
		}, ui.ExitInput, []string{"expected a JSON object"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newTestHub(t, modelFiles(1000)...)
			o := h.options(t)
			c.change(h, &o)
			_, _, err := run(t.Context(), o)
			wantError(t, err, c.code, c.want...)
		})
	}
}

func TestPassingTroubles(t *testing.T) {
	h := newTestHub(t, modelFiles(200_000)...)
	var n atomic.Int64
	var asked time.Time
	var mu sync.Mutex
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		switch n.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			asked = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case 3:
			if d := time.Since(asked); d < 900*time.Millisecond {
				t.Errorf("Retry-After 1: came back after %v", d)
			}
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	o := h.options(t)
	folder, errs, err := run(t.Context(), o)
	if err != nil || !strings.Contains(errs, "429 Too Many Requests and asks to wait 1.0s; trying again in 1.0s") {
		t.Fatalf("pull: %v\n%s", err, errs)
	}
	h.wantContent(t, strings.TrimSpace(folder), "config.json", "tokenizer.json", "model.safetensors")
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2025, 5, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "soon": 0, "99999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat):  time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("Retry-After %q: expected %v, found %v", text, want, got)
		}
	}
}

// The token goes to the hub, and only there, though all hosts of the test have
// one name.
func TestTokenStaysAtTheHub(t *testing.T) {
	h := newTestHub(t, modelFiles(300_000)...)
	h.private = true
	o := h.options(t)
	o.Settings.Token, o.Settings.tokenFrom = testToken, "HF_TOKEN"
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	if h.leaked.Load() {
		t.Error("the other host saw the token")
	}
	if n := h.count("/model.safetensors bytes"); n == 0 {
		t.Error("the other host was not asked")
	}
}

// A renamed repository answers with redirects on the hub itself, which take the
// token along.
func TestRenamedRepository(t *testing.T) {
	h := newTestHub(t, modelFiles(100_000)...)
	h.private = true
	o := h.options(t)
	o.Repo = "EleutherAI/old-name"
	o.Settings.Token = testToken
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "old-name") {
			return false
		}
		http.Redirect(w, r, strings.Replace(r.URL.String(), "EleutherAI/old-name", testRepo, 1), http.StatusTemporaryRedirect)
		return true
	}
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
}

// The places that the hub points to answer for a while only.
func TestExpiredPlace(t *testing.T) {
	h := newTestHub(t, modelFiles(500_000)...)
	var mu sync.Mutex
	uses := map[string]int{}
	h.beforeCDN = func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
		mu.Lock()
		defer mu.Unlock()
		if uses[r.URL.RawQuery]++; uses[r.URL.RawQuery] > 3 {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	o := h.options(t)
	o.Connections = 2
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	if hub, cdn := h.count("resolve/"+testCommit+"/model.safetensors"), h.count("GET /model.safetensors"); hub >= cdn {
		t.Errorf("requests: expected fewer to the hub than to the other host, found %d and %d", hub, cdn)
	}
}

func TestStall(t *testing.T) {
	h := newTestHub(t, modelFiles(200_000)...)
	var n atomic.Int64
	h.beforeCDN = func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
		if n.Add(1) != 2 {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(f.data)))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	o := h.options(t)
	o.Settings.Timeout = 100 * time.Millisecond
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")

	h.before = func(w http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
	o.Retries = 1
	_, _, err := run(t.Context(), o)
	wantError(t, err, ui.ExitFailed, "nothing arrived for 100ms", "attempt 2 of 2")
}

func TestInterruption(t *testing.T) {
	h := newTestHub(t, modelFiles(500_000)...)
	h.rate.Store(4000)
	ctx, cancel := context.WithCancel(t.Context())
	h.beforeCDN = func(w http.ResponseWriter, r *http.Request, f *testFile) bool {
		time.AfterFunc(20*time.Millisecond, cancel)
		return false
	}
	o := h.options(t)
	_, errs, err := run(ctx, o)
	if ui.ExitCode(err) != ui.ExitInterrupted || !strings.Contains(errs, "the same command goes on") {
		t.Fatalf("expected an interruption, found %v\n%s", err, errs)
	}
	got := h.served.Load()
	h.rate.Store(0)
	h.wantContent(t, mustRun(t, o), "config.json", "tokenizer.json", "model.safetensors")
	// What was on its way when the connection closed is lost.
	if twice := h.served.Load() - 500_000 - 3600; twice > got/2+200_000 || got < 10_000 {
		t.Errorf("bytes fetched twice: %d of %d", twice, got)
	}
}

func TestNamesThatLeadOutAreRefused(t *testing.T) {
	for _, name := range []string{
		"../evil", "/etc/evil", "a/../../evil", "a//b", "", ".", "..", "a/", "a\\..\\b", "a\x00b", "new\nline", "a/./b",
		strings.Repeat("a", 1025), "config.json/below",
	} {
		h := newTestHub(t, append(modelFiles(1000), &testFile{path: name, data: []byte("evil")})...)
		o := h.options(t)
		_, _, err := run(t.Context(), o)
		wantError(t, err, ui.ExitInput, "file name")
		if h.served.Load() > 0 {
			t.Errorf("%q: content was fetched", name)
		}
		if _, err := os.Stat(o.Settings.Cache); err == nil {
			t.Errorf("%q: the cache was written to", name)
		}
	}
}

// Links that someone put into the cache lead no writing astray.
func TestPlantedLinks(t *testing.T) {
	const repo = "models--EleutherAI--pythia-14m-deduped/"
	h := newTestHub(t, append(modelFiles(1000), &testFile{path: "sub/notes.txt", data: []byte("notes")})...)
	sum := h.files["model.safetensors"].sum()
	for _, c := range []struct {
		link string
		ok   bool // the pull succeeds, without using the link
	}{
		{repo + "blobs/" + sum + ".mlkv.incomplete", true},
		{repo + "blobs/" + sum, true}, // to a folder: not a blob
		{repo + "refs/main", true},
		{repo + "snapshots/" + testCommit + "/sub", false},
		{repo + "snapshots/" + testCommit, false},
		{repo + "blobs", false},
		{repo + "refs", false},
	} {
		for _, inside := range []bool{false, true} {
			o := h.options(t)
			o.Include = []string{"*"}
			victim := filepath.Join(t.TempDir(), "victim")
			if inside {
				victim = filepath.Join(o.Settings.Cache, repo, "victim")
			}
			if err := os.MkdirAll(victim, 0o777); err != nil {
				t.Fatal(err)
			}
			keep := filepath.Join(victim, "keep")
			os.WriteFile(keep, []byte("mine"), 0o666)
			target := victim
			if strings.HasSuffix(c.link, "incomplete") || strings.HasSuffix(c.link, "main") {
				target = keep
			}
			if inside {
				target, _ = filepath.Rel(filepath.Dir(filepath.Join(o.Settings.Cache, c.link)), target)
			}
			link := filepath.Join(o.Settings.Cache, c.link)
			os.MkdirAll(filepath.Dir(link), 0o777)
			if err := os.Symlink(target, link); err != nil {
				t.Skip(err)
			}
			out, _, err := run(t.Context(), o)
			if c.ok != (err == nil) {
				t.Errorf("%s, inside %t: %v", c.link, inside, err)
			} else if err == nil {
				if data, _ := os.ReadFile(filepath.Join(strings.TrimSpace(out), "model.safetensors")); !bytes.Equal(data, h.files["model.safetensors"].data) {
					t.Errorf("%s, inside %t: wrong content", c.link, inside)
				}
			}
			entries, _ := os.ReadDir(victim)
			if data, _ := os.ReadFile(keep); string(data) != "mine" || len(entries) != 1 {
				t.Errorf("%s, inside %t: the target was written to: %q, %v", c.link, inside, data, entries)
			}
		}
	}
}
