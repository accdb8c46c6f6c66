package convert

import (
	"bytes"
	"strings"

	"mlkv/internal/ui"
)

// streams returns streams whose standard output is kept.
func streams() (ui.Streams, *bytes.Buffer) {
	var out bytes.Buffer
	return ui.Streams{In: strings.NewReader(""), Out: &out, Err: new(bytes.Buffer), Width: 80}, &out
}
