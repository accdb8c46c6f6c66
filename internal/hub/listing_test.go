package hub

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestParseInfoRefuses(t *testing.T) {
	const sha = `"sha": "` + testCommit + `"`
	for body, want := range map[string]string{
		`[]`:                    "expected a JSON object",
		`{"siblings": []}`:      "field sha",
		`{"sha": "../../main"}`: "field sha",
		`{` + sha + `, "siblings": [{"rfilename": "a", "size": -1}]}`:                       "size: expected 0 or more",
		`{` + sha + `, "siblings": [{"rfilename": "a", "blobId": "../a"}]}`:                 "checksum",
		`{` + sha + `, "siblings": [{"rfilename": "a", "lfs": {"sha256": "/etc/x"}}]}`:      "checksum",
		`{` + sha + `, "siblings": [{"rfilename": "a"}, {"rfilename": "a"}]}`:               "found twice",
		`{` + sha + `, "siblings": [{"rfilename": "a/b"}, {"rfilename": "a"}]}`:             "expected a folder",
		`{` + sha + `, "siblings": [{"rfilename": "a/../b"}]}`:                              "is refused",
		`{` + sha + `, "siblings": [{"rfilename": 7}]}`:                                     "expected a JSON object",
		`{` + sha + `, "siblings": [` + strings.Repeat(`{"rfilename": "a"},`, 5e4) + `{}]}`: "fewer than 50000",
	} {
		if _, _, err := parseInfo([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200s: expected an error with %q, found %v", body, want, err)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte(`{"sha": "` + testCommit + `", "siblings": [{"rfilename": "a/b.bin", "size": 3, "blobId": "` + testCommit + `",
		"lfs": {"sha256": "` + strings.Repeat("ab", 32) + `", "size": 12, "pointerSize": 134}}, {"rfilename": "config.json"}]}`))
	f.Add([]byte(`{"sha": null, "siblings": null}`))
	f.Add([]byte(`{"sha": "` + testCommit + `", "siblings": [{"rfilename": "../a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		commit, files, err := parseInfo(data)
		if err != nil {
			return
		}
		if !commitPattern.MatchString(commit) {
			t.Errorf("commit %q", commit)
		}
		seen := map[string]bool{}
		for _, file := range files {
			if !filepath.IsLocal(file.Path) || filepath.Clean(file.Path) != file.Path || seen[file.Path] {
				t.Errorf("path %q", file.Path)
			}
			seen[file.Path] = true
			if file.ETag != "" && !etagPattern.MatchString(file.ETag) || file.Size < -1 {
				t.Errorf("file %+v", file)
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/100", "bytes 5-5/*", "bytes -5-9/10", "bytes 9-5/10", "", "bytes 0-99999999999999999999/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if from, to, total, err := contentRange(header); err == nil && (from < 0 || to < from || total < -1) {
			t.Errorf("%q: %d-%d/%d", header, from, to, total)
		}
	})
}

func TestMatcher(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*.json", "config.json", true}, {"*.json", "a/config.json", true}, {"*.json", "config.jsonl", false},
		{"config.json", "config.json", true}, {"config.json", "configxjson", false}, {"data/", "data/a/b", true},
		{"data/", "data2/a", false}, {"a?c", "a/c", true}, {"[ab].bin", "b.bin", true}, {"[!ab].bin", "b.bin", false},
		{"[!ab].bin", "c.bin", true}, {"[]x]", "]", true}, {"a[", "a[", true}, {"[a-c]*", "bcd", true}, {`[\d]`, "7", false},
		{"[[:alpha:]]", "a", false}, {"[^a]", "^", true}, {"é*", "éa", true}, {"", "a", false},
	} {
		re, err := matcher(c.pattern)
		if c.pattern == "" {
			if err == nil {
				t.Error("an empty pattern is accepted")
			}
			continue
		}
		if err != nil || re.MatchString(c.name) != c.want {
			t.Errorf("%q on %q: expected %t (%v)", c.pattern, c.name, c.want, err)
		}
	}
	if _, err := matcher("[z-a]"); err == nil {
		t.Error("[z-a] is accepted")
	}
}

func FuzzMatcher(f *testing.F) {
	for _, s := range []string{"*.json", "[!a-z]?", "[", "[]", "[!]", "a[\\]b", "é[ü]"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		re, err := matcher(pattern)
		if err == nil && !strings.ContainsAny(pattern, "*?[") && !strings.HasSuffix(pattern, "/") && re.MatchString(name) != (pattern == name) {
			t.Errorf("pattern %q, name %q: expected equality to decide", pattern, name)
		}
	})
}

func TestDefaultFilesOfAModel(t *testing.T) {
	repo := Repo{Kind: Model, ID: "a/b", Revision: mainRevision}
	for _, c := range []struct{ there, want string }{
		{"config.json model.safetensors pytorch_model.bin flax_model.msgpack tokenizer.json optimizer.pt", "config.json model.safetensors tokenizer.json"},
		{"config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json pytorch_model.bin",
			"config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json"},
		{"config.json pytorch_model.bin training_args.bin", "config.json pytorch_model.bin"},
		{"pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin pytorch_model.bin.index.json sub/config.json",
			"pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin pytorch_model.bin.index.json"},
		{"tokenizer.json sub/model.safetensors", "tokenizer.json"},
	} {
		var files []File
		for name := range strings.FieldsSeq(c.there) {
			files = append(files, File{Path: name})
		}
		got, err := choose(repo, files, nil, nil)
		if found := strings.Join(paths(got), " "); found != c.want || err != nil {
			t.Errorf("of %s: expected %s, found %s (%v)", c.there, c.want, found, err)
		}
	}
}
