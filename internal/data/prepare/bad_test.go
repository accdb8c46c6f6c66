package prepare

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlkv/internal/data/source"
	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// fails runs a preparation that must end with a code and a message, and leave
// nothing.
func fails(t *testing.T, o Options, code int, words ...string) {
	t.Helper()
	err := Run(t.Context(), o, quiet)
	if ui.ExitCode(err) != code {
		t.Fatalf("error %v, want exit code %d", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %v, want one that says %q", err, w)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(o.Out)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBadRecords(t *testing.T) {
	dir := t.TempDir()
	good := jsonLines(t, makeDocuments(2500))
	lines := append([]byte("{\"text\": 1}\n"), good...)
	lines = append(lines, "{\"text\": \"a\n"...)
	path := write(t, filepath.Join(dir, "a.jsonl"), lines)

	o := testOptions(t, path)
	m := mustRun(t, o) // 2 of 2502 are fewer than 0.1 %
	if m.Documents != 2500 || m.Dropped.Bad != 2 || len(m.Dropped.Examples) != 2 || !strings.Contains(m.Dropped.Examples[1], "a.jsonl:2502: ") {
		t.Errorf("%d documents, dropped %+v", m.Documents, m.Dropped)
	}
	o = testOptions(t, path)
	o.MaxBad = 0.0005
	fails(t, o, ui.ExitInput, "2 of 2502 records", path+":1: ", path+":2502: ", "--max-bad")
	fails(t, testOptions(t, write(t, filepath.Join(dir, "b.jsonl"), []byte("{\"text\": \"\xff\"}\n"))), ui.ExitInput, "1 of 1", "b.jsonl:1: invalid UTF-8")
	fails(t, testOptions(t, write(t, filepath.Join(dir, "c.txt"), []byte("a\nb\xff"))), ui.ExitInput, "c.txt:2: invalid UTF-8")
	fails(t, testOptions(t, write(t, filepath.Join(dir, "d.jsonl"), nil)), ui.ExitInput, "no text left")
}

func TestDamagedInput(t *testing.T) {
	paths, _ := testInputs(t)
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	write(t, paths[0], b[:len(b)/2])
	fails(t, testOptions(t, paths...), ui.ExitInput, paths[0], "--max-damage 1")
	o := testOptions(t, paths...)
	o.MaxDamage = 1
	if m := mustRun(t, o); m.Dropped.Damaged != 1 || m.Documents < 9000 || m.Sources[0].SHA256 != "" || m.Sources[2].SHA256 == "" {
		t.Errorf("%d documents, dropped %+v", m.Documents, m.Dropped)
	}
}

func TestBadOptions(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "a.txt"), []byte("text"))
	for name, c := range map[string]struct {
		change func(*Options)
		code   int
		word   string
	}{
		"no inputs":    {func(o *Options) { o.Inputs = nil }, ui.ExitUsage, "files or folders"},
		"missing":      {func(o *Options) { o.Inputs = []string{"/none"} }, ui.ExitInput, "/none"},
		"tokenizer":    {func(o *Options) { o.Tokenizer = "/none" }, ui.ExitInput, "/none"},
		"no tokenizer": {func(o *Options) { o.Tokenizer = "" }, ui.ExitUsage, "--tokenizer"},
		"row length":   {func(o *Options) { o.RowLength = 0 }, ui.ExitUsage, "--row-length"},
		"sample":       {func(o *Options) { o.Sample = 1.5 }, ui.ExitUsage, "--sample"},
		"sample 0":     {func(o *Options) { o.Sample = 0 }, ui.ExitUsage, "--sample"},
		"shard size":   {func(o *Options) { o.ShardBytes = 0 }, ui.ExitUsage, "--shard-size"},
		"set":          {func(o *Options) { o.Sets = []string{"x"} }, ui.ExitInput, "1 of other sets"},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t, path)
			c.change(&o)
			fails(t, o, c.code, c.word)
		})
	}
	o := testOptions(t, path)
	mustRun(t, o)
	if err := Run(t.Context(), o, quiet); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "--force") {
		t.Errorf("existing output: %v", err)
	}
	o.Force = true
	mustRun(t, o)
}

func TestFullDisk(t *testing.T) {
	if out := os.Getenv("PREPARE_TEST_FULL"); out != "" {
		limitFiles(t, 100_000)
		o := Default()
		o.Inputs, o.RowLength = []string{filepath.Join(filepath.Dir(filepath.Dir(out)), "a.jsonl")}, 64
		o.Tokenizer, o.Out = filepath.Dir(o.Inputs[0]), out
		err := Run(t.Context(), o, quiet)
		if ui.ExitCode(err) != ui.ExitFailed || !strings.Contains(err.Error(), "shard-00000.rows") {
			t.Fatalf("error %v, want one that names the shard", err)
		}
		return
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.jsonl"), jsonLines(t, makeDocuments(4000)))
	write(t, filepath.Join(dir, tokenizer.FileName), trained())
	parent := filepath.Join(dir, "parent")
	if err := os.Mkdir(parent, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	cmd.Env = append(os.Environ(), "PREPARE_TEST_FULL="+filepath.Join(parent, "out"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestParseShare(t *testing.T) {
	for text, want := range map[string]float64{"5%": 0.05, "0.05": 0.05, "100%": 1, "0": 0, " 2.5% ": 0.025} {
		if got, err := ParseShare(text); err != nil || got != want {
			t.Errorf("%q: %g, %v; want %g", text, got, err, want)
		}
	}
	for _, text := range []string{"", "%", "101%", "-1%", "nan", "x"} {
		if got, err := ParseShare(text); err == nil {
			t.Errorf("%q: %g, want an error", text, got)
		}
	}
}

func TestSeenSet(t *testing.T) {
	defer func(n int) { largeTable = n }(largeTable)
	largeTable = 1 << 14
	dir := t.TempDir()
	s := newSeenSet(dir)
	if err := s.open(0); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20000) {
		if fresh, err := s.add(hashOf(i)); err != nil || !fresh {
			t.Fatalf("hash %d: %v, %v", i, fresh, err)
		}
	}
	if fresh, _ := s.add(hashOf(5)); fresh {
		t.Error("a hash was forgotten")
	}
	n, err := s.save()
	if err != nil || n != 20000 {
		t.Fatalf("saved %d, %v", n, err)
	}
	s.close()
	back := newSeenSet(dir)
	if err := back.open(10000); err != nil {
		t.Fatal(err)
	}
	defer back.close()
	var got []bool
	for _, i := range []uint64{9999, 10000} {
		fresh, err := back.add(hashOf(i))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fresh)
	}
	if !slices.Equal(got, []bool{false, true}) {
		t.Errorf("after reading 10000 back, hash 9999 and 10000 are new: %v", got)
	}
}

// hashOf spreads small numbers; 0 stays 0.
func hashOf(i uint64) uint64 { return i * 0x9E3779B97F4A7C15 }

func TestSpace(t *testing.T) {
	o := Default()
	inputs := []source.Input{{Path: "a.jsonl.zst", Bytes: 1000}, {Path: "b.jsonl", Bytes: 1000}, {Path: "c.idx", Bytes: 1000}}
	if got := surelyNeeded(inputs, &o); got != 1800 {
		t.Errorf("%d bytes, want 1800", got)
	}
	o.Sample = 0.5
	if got := surelyNeeded(inputs, &o); got != 900 {
		t.Errorf("of half the documents %d bytes, want 900", got)
	}
	huge := []source.Input{{Path: "a.jsonl", Bytes: 1 << 60}}
	if err := checkSpace(t.TempDir(), huge, &o); ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), "PiB free") {
		t.Errorf("an exbibyte of text: %v", err)
	}
	o.Limit = 1
	if err := checkSpace(t.TempDir(), huge, &o); err != nil {
		t.Errorf("with a limit: %v", err)
	}
}
