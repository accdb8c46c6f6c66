package convert

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"
)

// TestMeanRows holds means against those of torch.mean(x, dim=0) (PyTorch 2.15,
// CPU), by the checksum of their bytes, where element (i, j) of x is
// ((7919 i + 104729 j) mod 10007) / 10007 - 0.5 in float32.
func TestMeanRows(t *testing.T) {
	for _, c := range []struct {
		rows, cols int
		want       string
	}{
		{3, 40, "f2935488db1c65b646063066879f342e5a654f4c5c322186156555781194801b"},
		{6, 16, "13b1f0f78323090af4e3af373470d95865f4f99c32ecf19464a562906e2f547b"},
		{12, 64, "4c1e5f9895cc74ee36496d689bc195a84f087d8ed04c986900006b1454e0775d"},
		{17, 33, "224e7c30779d13d0f7b44ba796d0e07e0747887449eeca38b36a1c271299e49f"},
		{33, 100, "37c8e0843df025f9fe1d896a502bf784bfa5f1e7ece2fb5f96eea0d476c70102"},
		{100, 8, "3434b05ec93173ba94ae8324204391e2de6fd44c8c1ba3e025e9ebd316177308"},
	} {
		rows := make([][]float32, c.rows)
		for i := range rows {
			rows[i] = make([]float32, c.cols)
			for j := range rows[i] {
				rows[i][j] = float32((i*7919+j*104729)%10007)/10007 - 0.5
			}
		}
		dst := make([]float32, c.cols)
		meanRows(dst, rows)
		var data []byte
		for _, v := range dst {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != c.want {
			t.Errorf("%d rows of %d: SHA-256 %x, expected %s", c.rows, c.cols, sum, c.want)
		}
	}
}
