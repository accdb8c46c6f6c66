package data

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mlkv/internal/ui"
)

func TestPermutation(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 4, 5, 7, 64, 65, 1000, 4097} {
		p := newPermutation(n, 42, 0)
		seen := make([]bool, n)
		for i := range n {
			x := p.at(i)
			if x < 0 || x >= n || seen[x] {
				t.Fatalf("n %d: place %d gives %d, out of range or twice", n, i, x)
			}
			seen[x] = true
		}
	}
}

// TestPermutationIsRandom compares, over many keys, how often each value comes
// at each place with the equal share, by the chi-squared statistic.
func TestPermutationIsRandom(t *testing.T) {
	const n, keys = 10, 20000
	var counts [n][n]float64
	for key := range int64(keys) {
		p := newPermutation(n, key, 3)
		for i := range int64(n) {
			counts[i][p.at(i)]++
		}
	}
	chi := 0.0
	for i := range counts {
		for _, c := range counts[i] {
			chi += (c - keys/n) * (c - keys/n) / (keys / n)
		}
	}
	free := float64((n - 1) * (n - 1))
	if limit := free + 5*math.Sqrt(2*free); chi > limit {
		t.Errorf("chi-squared %.1f over %d keys, want at most %.1f", chi, keys, limit)
	}
}

// loaderFolder holds two shards of 23 and 14 rows, numbered through.
func loaderFolder(t testing.TB) string {
	dir := t.TempDir()
	writeShard(t, filepath.Join(dir, "0"+ShardSuffix), testHeader(), numbered(0, 23))
	writeShard(t, filepath.Join(dir, "1"+ShardSuffix), testHeader(), numbered(23, 14))
	return dir
}

func open(t testing.TB, dir string, o LoaderOptions) *Loader {
	t.Helper()
	l, err := OpenLoader([]string{dir}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// take returns the numbers of the next n rows.
func take(t testing.TB, l *Loader, n int) []uint16 {
	t.Helper()
	numbers := make([]uint16, n)
	for i := range numbers {
		row, err := l.Next()
		if err != nil {
			t.Fatal(err)
		}
		numbers[i] = row[0]
	}
	return numbers
}

func TestLoaderEpochs(t *testing.T) {
	dir := loaderFolder(t)
	plain := open(t, dir, LoaderOptions{})
	for epoch := range 2 {
		for i, x := range take(t, plain, 37) {
			if int(x) != i {
				t.Fatalf("unshuffled epoch %d: row %d is %d", epoch, i, x)
			}
		}
	}
	l := open(t, dir, LoaderOptions{Shuffle: true, Seed: 1})
	a, b := take(t, l, 37), take(t, l, 37)
	if slices.Equal(a, b) {
		t.Error("two epochs have one order")
	}
	if slices.Equal(a, take(t, open(t, dir, LoaderOptions{Shuffle: true, Seed: 2}), 37)) {
		t.Error("two seeds have one order")
	}
	for _, order := range [][]uint16{a, b} {
		slices.Sort(order)
		for i, x := range order {
			if int(x) != i {
				t.Fatalf("an epoch lacks row %d", i)
			}
		}
	}
	if got := l.Position(); got != (Position{Epoch: 2, Row: 0}) {
		t.Errorf("position after two epochs: %+v", got)
	}
}

// TestLoaderOrder pins the order of rows: runs resume with it.
func TestLoaderOrder(t *testing.T) {
	got := take(t, open(t, loaderFolder(t), LoaderOptions{Shuffle: true, Seed: 42}), 12)
	want := []uint16{34, 12, 2, 18, 17, 10, 7, 8, 20, 3, 28, 33}
	if !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestLoaderSeek(t *testing.T) {
	dir := loaderFolder(t)
	weights := map[string]float64{"": 1}
	for _, o := range []LoaderOptions{
		{}, {Shuffle: true, Seed: 5}, {Shuffle: true, Seed: 5, Prefetch: 1}, {Shuffle: true, Seed: 5, Prefetch: 100},
		{Shuffle: true, Seed: 5, Rank: 2, Ranks: 5}, {Shuffle: true, Seed: 5, Weights: weights, Prefetch: 7},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			whole := open(t, dir, o)
			var order []uint16
			var at []Position
			for range 120 {
				at = append(at, whole.Position())
				order = append(order, take(t, whole, 1)...)
			}
			l := open(t, dir, o)
			r := rand.New(rand.NewPCG(3, 4))
			for range 100 {
				i := r.IntN(len(at) - 5)
				if err := l.Seek(at[i]); err != nil {
					t.Fatal(err)
				}
				if got := take(t, l, 5); !slices.Equal(got, order[i:i+5]) {
					t.Fatalf("from %+v: %v, want %v", at[i], got, order[i:i+5])
				}
				if l.Position() != at[i+5] {
					t.Fatalf("position %+v, want %+v", l.Position(), at[i+5])
				}
			}
		})
	}
	for _, p := range []Position{{-1, 0}, {0, -1}, {0, 37}} {
		if err := open(t, dir, LoaderOptions{}).Seek(p); ui.ExitCode(err) != ui.ExitInput {
			t.Errorf("seek to %+v: %v", p, err)
		}
	}
}

func TestLoaderRanks(t *testing.T) {
	dir := loaderFolder(t)
	one := take(t, open(t, dir, LoaderOptions{Shuffle: true, Seed: 9}), 90)
	for _, ranks := range []int{2, 3, 5} {
		for rank := range ranks {
			l := open(t, dir, LoaderOptions{Shuffle: true, Seed: 9, Rank: rank, Ranks: ranks})
			for i, x := range take(t, l, 90/ranks) {
				if x != one[i*ranks+rank] {
					t.Fatalf("rank %d of %d: row %d is %d, want %d", rank, ranks, i, x, one[i*ranks+rank])
				}
			}
		}
	}
	if _, err := OpenLoader([]string{dir}, LoaderOptions{Rank: 2, Ranks: 2}); ui.ExitCode(err) != ui.ExitUsage {
		t.Errorf("rank 2 of 2: %v", err)
	}
}

func TestLoaderWeights(t *testing.T) {
	dir := t.TempDir()
	for i, set := range []string{"a", "b", "a", "c"} {
		h := testHeader()
		h.Set = set
		writeShard(t, filepath.Join(dir, fmt.Sprint(i)+ShardSuffix), h, numbered(100*i, 10+i))
	}
	for _, shuffle := range []bool{false, true} {
		l := open(t, dir, LoaderOptions{Shuffle: shuffle, Seed: 1, Weights: map[string]float64{"a": 1, "b": 3}})
		if l.Rows() != 46 {
			t.Fatalf("%d rows an epoch, want 46", l.Rows())
		}
		counts := map[uint16]int{}
		perSet := [2]int{}
		const epochs = 40
		for _, x := range take(t, l, 46*epochs) {
			counts[x]++
			if x >= 300 {
				t.Fatalf("row %d is of a set without a weight", x)
			}
			perSet[x/100%2]++
		}
		if want := [2]int{12 * epochs, 34 * epochs}; perSet != want && perSet != [2]int{11 * epochs, 35 * epochs} {
			t.Errorf("shuffle %v: rows of a and b: %v, want about %v", shuffle, perSet, want)
		}
		for x, n := range counts { // each row of a set comes equally often, but for the last pass
			size := 22
			if x/100 == 1 {
				size = 11
			}
			want := perSet[x/100%2] / size
			if n < want || n > want+1 {
				t.Errorf("shuffle %v: row %d came %d times, want %d or %d", shuffle, x, n, want, want+1)
			}
		}
	}
	for _, w := range []map[string]float64{{"z": 1}, {"a": -1}, {"a": 0}, {"a": math.NaN()}} {
		if _, err := OpenLoader([]string{dir}, LoaderOptions{Weights: w}); ui.ExitCode(err) != ui.ExitUsage {
			t.Errorf("weights %v: %v", w, err)
		}
	}
}

func BenchmarkLoader(b *testing.B) {
	const length, rows = 2048, 50000
	path := filepath.Join(b.TempDir(), "a"+ShardSuffix)
	h := testHeader()
	h.RowLength, h.VocabSize = length, 1<<16
	row := make([]uint16, length+1)
	w, err := NewWriter(path, h)
	if err != nil {
		b.Fatal(err)
	}
	for i := range rows {
		row[0] = uint16(i)
		if err := w.WriteRow(row); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		b.Fatal(err)
	}
	for _, depth := range []int{0, 256} {
		b.Run(fmt.Sprintf("prefetch-%d", depth), func(b *testing.B) {
			l := open(b, path, LoaderOptions{Shuffle: true, Seed: 1, Prefetch: depth})
			batch := make([]uint16, length+1)
			n := 0
			for b.Loop() {
				row, err := l.Next()
				if err != nil {
					b.Fatal(err)
				}
				n += copy(batch, row)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Mtokens/s")
		})
	}
}

func TestPrefetchKeepsOrder(t *testing.T) {
	dir := loaderFolder(t)
	want := take(t, open(t, dir, LoaderOptions{Shuffle: true, Seed: 3}), 100)
	for _, depth := range []int{1, 2, 15, 16, 17, 64, 1000} {
		l := open(t, dir, LoaderOptions{Shuffle: true, Seed: 3, Prefetch: depth})
		if got := take(t, l, 100); !slices.Equal(got, want) {
			t.Errorf("depth %d: order %v, want %v", depth, got, want)
		}
		if got := l.Position(); got != (Position{Epoch: 2, Row: 26}) {
			t.Errorf("depth %d: position %+v after 100 of 37 rows an epoch", depth, got)
		}
	}
}

// TestPrefetchPassesErrors damages the length of a row.
func TestPrefetchPassesErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a"+ShardSuffix)
	writeShard(t, path, testHeader(), numbered(0, 5))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-8] = 200 // of row 3
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, depth := range []int{0, 1, 100} {
		l := open(t, path, LoaderOptions{Prefetch: depth})
		take(t, l, 3)
		for range 2 {
			if _, err := l.Next(); ui.ExitCode(err) != ui.ExitInput {
				t.Errorf("depth %d: error %v at the damaged row, want exit code %d", depth, err, ui.ExitInput)
			}
		}
		if got := l.Position(); got.Row != 3 {
			t.Errorf("depth %d: position %+v, want that of the damaged row", depth, got)
		}
	}
}
