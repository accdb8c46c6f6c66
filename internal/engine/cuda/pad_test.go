package cuda

import (
	"slices"
	"testing"

	"mlkv/internal/model"
)

func TestPadWidth(t *testing.T) {
	for n, want := range map[int]int{0: 0, 8: 8, 509: 512, 24: 24, 520: 520, 3072: 3072, 3777: 3840, 3809: 3840, 3835: 3840, 4259: 4264} {
		if got := padWidth(n); got != want {
			t.Errorf("%d is widened to %d, want %d", n, got, want)
		}
	}
}

func TestWidenAndNarrow(t *testing.T) {
	for _, shapes := range [][2][]int{{{3, 5}, {8, 8}}, {{5}, {8}}, {{4, 8}, {4, 8}}, {{2, 7}, {2, 16}}} {
		from, to := model.Param{Name: "p", Shape: shapes[0]}, model.Param{Name: "p", Shape: shapes[1]}
		data := make([]float32, from.Size())
		for i := range data {
			data[i] = float32(i + 1)
		}
		wide, err := widen(data, from, to)
		if err != nil {
			t.Fatal(err)
		}
		sum := float32(0)
		for _, v := range wide {
			sum += v
		}
		if n := float32(len(data)); len(wide) != to.Size() || sum != n*(n+1)/2 {
			t.Errorf("%v to %v: %v", shapes[0], shapes[1], wide)
		}
		back := make([]float32, len(data))
		narrow(back, from, wide, to)
		if !slices.Equal(back, data) {
			t.Errorf("%v to %v and back: %v", shapes[0], shapes[1], back)
		}
	}
	if _, err := widen(make([]float32, 3), model.Param{Name: "p", Shape: []int{4}}, model.Param{Shape: []int{8}}); err == nil {
		t.Error("data of a wrong size were accepted")
	}
}
