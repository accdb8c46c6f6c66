package provenance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestFileSHA256(t *testing.T) {
	path := filepath.Join(t.TempDir(), "abc")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	// FIPS 180-2, appendix B.1.
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got, err := FileSHA256(path); got != want || err != nil {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if _, err := FileSHA256(path + "-missing"); !os.IsNotExist(err) {
		t.Errorf("missing file: got %v", err)
	}
}

func TestRecordReadsBack(t *testing.T) {
	r := New(map[string]any{"name": "MLKV-6"})
	r.Seed("rows", 42)
	r.Input("base", "00ff")
	r.Device = "cpu"
	r.Finish()
	data, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if back.Seeds["rows"] != 42 || back.Inputs["base"] != "00ff" || back.GoVersion != runtime.Version() ||
		!back.Started.Equal(r.Started) || !back.Finished.Equal(r.Finished) || len(back.Command) == 0 {
		t.Errorf("read back as %+v from\n%s", back, data)
	}
	if r.InputFile("missing") == nil {
		t.Error("a missing input passed")
	}
}

func TestReadBuild(t *testing.T) {
	b := ReadBuild()
	if b.Version == "" || b.GoVersion != runtime.Version() || b.Platform != runtime.GOOS+"/"+runtime.GOARCH {
		t.Errorf("got %+v", b)
	}
}
