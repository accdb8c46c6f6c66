package source

import (
	"encoding/binary"
	"fmt"
	"math"
)

// decodeTokens turns little-endian integers of a Megatron dtype into token ids.
func decodeTokens(b []byte, dtype byte) ([]uint16, error) {
	le := binary.LittleEndian
	width := int(tokenWidths[dtype])
	tokens := make([]uint16, len(b)/width)
	for i := range tokens {
		at := b[i*width:]
		var x int64
		switch dtype {
		case 1:
			x = int64(at[0])
		case 2:
			x = int64(int8(at[0]))
		case 3:
			x = int64(int16(le.Uint16(at)))
		case 4:
			x = int64(int32(le.Uint32(at)))
		case 5:
			x = int64(le.Uint64(at))
		default:
			x = int64(le.Uint16(at))
		}
		id, err := tokenID(i, x)
		if err != nil {
			return nil, err
		}
		tokens[i] = id
	}
	return tokens, nil
}

// tokenID checks the range of token i.
func tokenID(i int, x int64) (uint16, error) {
	if x < 0 || x > math.MaxUint16 {
		return 0, fmt.Errorf("token %d: expected an id of 0 to %d, found %d", i, math.MaxUint16, x)
	}
	return uint16(x), nil
}
