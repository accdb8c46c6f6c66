package hub

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	testRepo   = "EleutherAI/pythia-14m-deduped"
	testCommit = "0123456789abcdef0123456789abcdef01234567"
	testToken  = "hf_secret"
)

// testHub is a hub with one repository and a second host that serves large
// files, as the public one has.
type testHub struct {
	hub, cdn *httptest.Server
	prefix   string // "" or "/datasets"
	kind     Kind
	repo     string
	files    map[string]*testFile
	bare     bool // the list tells names only
	private  bool // wants testToken

	// before may answer a request in the hub's place.
	before func(w http.ResponseWriter, r *http.Request) bool
	// beforeCDN may answer for the other host.
	beforeCDN func(w http.ResponseWriter, r *http.Request, f *testFile) bool
	noRanges  bool
	rate      atomic.Int64 // bytes of a body each millisecond; 0: all at once

	mu       sync.Mutex
	requests []string
	served   atomic.Int64 // bytes of content
	leaked   atomic.Bool  // the other host saw a token
	begun    atomic.Int64 // answers with content
	signed   atomic.Int64 // redirects, each with a signature of its own
}

type testFile struct {
	path  string
	data  []byte
	large bool
	etag  string // overrides the checksum
}

func (f *testFile) sum() string {
	if f.etag != "" {
		return f.etag
	}
	if f.large {
		s := sha256.Sum256(f.data)
		return hex.EncodeToString(s[:])
	}
	s := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(f.data)), f.data...))
	return hex.EncodeToString(s[:])
}

func newTestHub(t testing.TB, files ...*testFile) *testHub {
	h := &testHub{kind: Model, repo: testRepo, files: map[string]*testFile{}}
	for _, f := range files {
		h.files[f.path] = f
	}
	h.cdn = httptest.NewServer(http.HandlerFunc(h.serveCDN)) // first: the hub points to it
	h.hub = httptest.NewServer(http.HandlerFunc(h.serveHub))
	t.Cleanup(h.hub.Close)
	t.Cleanup(h.cdn.Close)
	return h
}

// modelFiles are those of a small model, the weights of the given size.
func modelFiles(weights int) []*testFile {
	return []*testFile{
		{path: ".gitattributes", data: []byte("*.bin filter=lfs\n")},
		{path: "config.json", data: []byte(`{"model_type": "gpt_neox"}`)},
		{path: "tokenizer.json", data: []byte(strings.Repeat("merges ", 500))},
		{path: "model.safetensors", data: randomBytes(1, weights), large: true},
		{path: "pytorch_model.bin", data: randomBytes(2, 1000), large: true},
		{path: "onnx/model.onnx", data: randomBytes(3, 1000), large: true},
	}
}

func randomBytes(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

func (h *testHub) note(r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
}

// count tells how many requests contain text.
func (h *testHub) count(text string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.requests {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

func (h *testHub) serveHub(w http.ResponseWriter, r *http.Request) {
	h.note(r)
	if h.before != nil && h.before(w, r) {
		return
	}
	if h.private && r.Header.Get("Authorization") != "Bearer "+testToken {
		w.Header().Set("X-Error-Code", "GatedRepo")
		w.Header().Set("X-Error-Message", "Access to this repository is restricted.")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	api := fmt.Sprintf("/api/%s/%s/revision/", h.kind, h.repo)
	resolve := h.prefix + "/" + h.repo + "/resolve/"
	switch {
	case strings.HasPrefix(r.URL.Path, api):
		h.serveInfo(w, strings.TrimPrefix(r.URL.Path, api))
	case strings.HasPrefix(r.URL.Path, resolve):
		h.serveFile(w, r, strings.TrimPrefix(r.URL.Path, resolve))
	default:
		w.Header().Set("X-Error-Code", "RepoNotFound")
		w.WriteHeader(http.StatusNotFound)
	}
}

func (h *testHub) serveInfo(w http.ResponseWriter, revision string) {
	if revision != "main" && revision != "refs/pr/1" && revision != testCommit {
		w.Header().Set("X-Error-Code", "RevisionNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	type object = map[string]any
	list := []object{}
	for _, f := range h.files {
		o := object{"rfilename": f.path}
		if !h.bare {
			o["size"], o["blobId"] = len(f.data), f.sum()
		}
		if !h.bare && f.large {
			o["blobId"] = strings.Repeat("9", 40) // of the pointer
			o["lfs"] = object{"sha256": f.sum(), "size": len(f.data), "pointerSize": 134}
		}
		list = append(list, o)
	}
	json.NewEncoder(w).Encode(object{"id": h.repo, "sha": testCommit, "siblings": list, "private": false})
}

func (h *testHub) serveFile(w http.ResponseWriter, r *http.Request, rest string) {
	commit, name, _ := strings.Cut(rest, "/")
	f := h.files[name]
	if commit != testCommit || f == nil {
		w.Header().Set("X-Error-Code", "EntryNotFound")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("X-Repo-Commit", testCommit)
	if f.large {
		w.Header().Set("X-Linked-Etag", `"`+f.sum()+`"`)
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(f.data)))
		http.Redirect(w, r, h.cdn.URL+(&url.URL{Path: "/" + f.path, RawQuery: fmt.Sprintf("signature=%d", h.signed.Add(1))}).String(), http.StatusFound)
		return
	}
	w.Header().Set("ETag", `W/"`+f.sum()+`"`)
	h.content(w, r, f)
}

func (h *testHub) serveCDN(w http.ResponseWriter, r *http.Request) {
	h.note(r)
	if r.Header.Get("Authorization") != "" {
		h.leaked.Store(true)
	}
	f := h.files[strings.TrimPrefix(r.URL.Path, "/")]
	if f == nil || r.URL.Query().Get("signature") == "" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if h.beforeCDN != nil && h.beforeCDN(w, r, f) {
		return
	}
	h.content(w, r, f)
}

// span reads the header Range of a request.
func span(r *http.Request, size int) (from, to int, ranged bool) {
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		return 0, size, false
	}
	return from, min(to+1, size), true
}

func (h *testHub) content(w http.ResponseWriter, r *http.Request, f *testFile) {
	from, to, ranged := span(r, len(f.data))
	if ranged && h.noRanges {
		from, to, ranged = 0, len(f.data), false
	}
	w.Header().Set("Content-Length", strconv.Itoa(to-from))
	if ranged {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(f.data)))
		w.WriteHeader(http.StatusPartialContent)
	}
	if r.Method == http.MethodHead {
		return
	}
	h.begun.Add(1)
	h.body(w, r, f.data[from:to])
}

// body sends data at the hub's rate and counts it.
func (h *testHub) body(w http.ResponseWriter, r *http.Request, data []byte) {
	step := len(data)
	rate := int(h.rate.Load())
	if rate > 0 {
		step = rate
	}
	for len(data) > 0 {
		n, err := w.Write(data[:min(step, len(data))])
		h.served.Add(int64(n))
		if err != nil {
			return
		}
		data = data[n:]
		if rate > 0 {
			w.(http.Flusher).Flush()
			select {
			case <-time.After(time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	}
}

// drop sends the first n bytes of what was asked for and closes the connection.
func (h *testHub) drop(w http.ResponseWriter, r *http.Request, f *testFile, n int) {
	from, to, ranged := span(r, len(f.data))
	w.Header().Set("Content-Length", strconv.Itoa(to-from))
	if ranged {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(f.data)))
		w.WriteHeader(http.StatusPartialContent)
	}
	n = min(n, to-from)
	w.Write(f.data[from : from+n])
	h.served.Add(int64(n))
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}
