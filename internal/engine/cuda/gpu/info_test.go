package gpu

import (
	"math"
	"testing"
)

func TestPeakBF16(t *testing.T) {
	for _, c := range []struct {
		info Info
		want float64 // TFLOP/s, NVIDIA's data sheets
	}{
		{Info{Name: "NVIDIA H100 80GB HBM3", Major: 9, SMs: 132, Clock: 1980000}, 989.4},
		{Info{Name: "NVIDIA A100-SXM4-80GB", Major: 8, SMs: 108, Clock: 1410000}, 312},
		{Info{Name: "NVIDIA GeForce RTX 4090", Major: 8, Minor: 9, SMs: 128, Clock: 2520000}, 165.2},
		{Info{Name: "NVIDIA GeForce RTX 3090", Major: 8, Minor: 6, SMs: 82, Clock: 1695000}, 71},
		{Info{Name: "NVIDIA L4", Major: 8, Minor: 9, SMs: 58, Clock: 2040000}, 121},
	} {
		if got := c.info.PeakBF16() / 1e12; math.Abs(got/c.want-1) > 0.01 {
			t.Errorf("%s: got %.1f TFLOP/s, want %.1f", c.info.Name, got, c.want)
		}
	}
}

func TestArch(t *testing.T) {
	for want, info := range map[string]Info{
		"sm_80": {Major: 8}, "sm_89": {Major: 8, Minor: 9}, "sm_90a": {Major: 9}, "sm_120a": {Major: 12},
	} {
		if got := info.Arch(); got != want {
			t.Errorf("%d.%d: got %s, want %s", info.Major, info.Minor, got, want)
		}
	}
}
