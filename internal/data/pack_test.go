package data

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// pack runs documents through a packer, cut in parts, with a Save and Restore
// into a new packer now and then.
func pack(t *testing.T, p Packing, length int, documents [][]uint16, parts int) [][]uint16 {
	t.Helper()
	var rows [][]uint16
	emit := func(row []uint16) error {
		rows = append(rows, slices.Clone(row))
		return nil
	}
	packer := NewPacker(p, length, 0, emit)
	for i, d := range documents {
		for k := range parts {
			from, to := k*len(d)/parts, (k+1)*len(d)/parts
			if err := packer.Add(d[from:to], k < parts-1); err != nil {
				t.Fatal(err)
			}
			if i > 50 && i%500 > 0 {
				continue
			}
			b, err := json.Marshal(packer.Save())
			if err != nil {
				t.Fatal(err)
			}
			var state PackerState
			if err := json.Unmarshal(b, &state); err != nil {
				t.Fatal(err)
			}
			packer = NewPacker(p, length, 0, emit)
			packer.Restore(state)
		}
	}
	if err := packer.Finish(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// randomDocuments hold tokens from 2 up.
func randomDocuments(n, longest int) [][]uint16 {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	documents := make([][]uint16, n)
	for i := range documents {
		documents[i] = make([]uint16, 1+r.IntN(longest))
		for k := range documents[i] {
			documents[i][k] = uint16(2 + r.IntN(500))
		}
	}
	return documents
}

func TestStreamPacking(t *testing.T) {
	for _, length := range []int{1, 2, 5, 16} {
		documents := randomDocuments(40, 30)
		var stream []uint16
		for _, d := range documents {
			stream = append(append(stream, d...), 0)
		}
		rows := pack(t, Stream, length, documents, 3)
		joined := slices.Clone(rows[0][:1])
		for i, row := range rows {
			if i < len(rows)-1 && len(row) != length+1 {
				t.Errorf("length %d: row %d has %d tokens", length, i, len(row))
			}
			if row[0] != joined[len(joined)-1] {
				t.Errorf("length %d: row %d begins with %d, the row before ends with %d", length, i, row[0], joined[len(joined)-1])
			}
			joined = append(joined, row[1:]...)
		}
		if !slices.Equal(joined, stream) {
			t.Errorf("length %d: the rows do not make up the stream", length)
		}
	}
	if rows := pack(t, Stream, 4, [][]uint16{{}, {}}, 2); len(rows) > 0 {
		t.Errorf("empty documents made rows %v", rows)
	}
}

// packAuthors is the published algorithm over whole slices.
func packAuthors(length int, documents [][]uint16) (rows [][]uint16) {
	for group := range slices.Chunk(documents, 2000) {
		group = slices.Clone(group)
		for i, d := range group {
			group[i] = d[:min(len(d), length)]
		}
		slices.SortStableFunc(group, func(a, b []uint16) int { return len(a) - len(b) })
		var buffer []uint16
		for _, d := range group {
			withEOS := append(slices.Clone(d), 0)
			if len(buffer)+len(withEOS) <= length {
				buffer = append(buffer, withEOS...)
			} else {
				rows = append(rows, buffer)
				buffer = withEOS
			}
		}
		rows = append(rows, buffer)
	}
	return slices.DeleteFunc(rows, func(row []uint16) bool { return len(row) == 0 })
}

func TestAuthorsPacking(t *testing.T) {
	for _, c := range []struct{ n, longest, length int }{{1, 5, 8}, {100, 20, 8}, {4100, 12, 16}, {30, 40, 4}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			documents := randomDocuments(c.n, c.longest)
			got, want := pack(t, Authors, c.length, documents, 2), packAuthors(c.length, documents)
			if !slices.EqualFunc(got, want, slices.Equal[[]uint16]) {
				t.Errorf("%d rows differ from the %d wanted", len(got), len(want))
			}
		})
	}
}

func TestRowPacking(t *testing.T) {
	documents := [][]uint16{{1, 2, 3}, {}, {4, 5, 6, 7, 8}}
	if got := pack(t, Rows, 4, documents, 1); len(got) != 2 || !slices.Equal(got[1], documents[2]) {
		t.Errorf("rows %v", got)
	}
	p := NewPacker(Rows, 3, 0, func([]uint16) error { return nil })
	if err := p.Add(documents[2], false); err == nil {
		t.Error("a sequence of 5 tokens was taken as a row of 3 + 1")
	}
}
