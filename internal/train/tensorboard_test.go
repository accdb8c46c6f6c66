package train

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// readFrames splits an event file into its records and checks every checksum.
func readFrames(data []byte) ([][]byte, error) {
	var out [][]byte
	for at := 0; at < len(data); {
		head := data[at:]
		if len(head) < 12 {
			return nil, fmt.Errorf("offset %d: %d bytes of a frame's header", at, len(head))
		}
		n := int(binary.LittleEndian.Uint64(head))
		if got, want := binary.LittleEndian.Uint32(head[8:]), maskedCRC(head[:8]); got != want {
			return nil, fmt.Errorf("offset %d: length checksum %08x, expected %08x", at, got, want)
		}
		if len(head) < 16+n {
			return nil, fmt.Errorf("offset %d: frame of %d bytes is cut", at, n)
		}
		body := head[12 : 12+n]
		if got, want := binary.LittleEndian.Uint32(head[12+n:]), maskedCRC(body); got != want {
			return nil, fmt.Errorf("offset %d: data checksum %08x, expected %08x", at, got, want)
		}
		out = append(out, body)
		at += 16 + n
	}
	return out, nil
}

// fields splits a protobuf message; the values are uint64, or []byte for
// length-delimited fields.
func fields(t *testing.T, msg []byte) map[protowire.Number]any {
	t.Helper()
	out := map[protowire.Number]any{}
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			t.Fatalf("tag: %v", protowire.ParseError(n))
		}
		msg = msg[n:]
		switch typ {
		case protowire.VarintType:
			out[num], n = protowire.ConsumeVarint(msg)
		case protowire.Fixed64Type:
			out[num], n = protowire.ConsumeFixed64(msg)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(msg)
			out[num] = uint64(v)
		case protowire.BytesType:
			out[num], n = protowire.ConsumeBytes(msg)
		default:
			t.Fatalf("field %d: wire type %d", num, typ)
		}
		if n < 0 {
			t.Fatalf("field %d: %v", num, protowire.ParseError(n))
		}
		msg = msg[n:]
	}
	return out
}

// TestMaskedCRC compares with the framing of a file that TensorFlow wrote: the
// header of a record of 24 bytes, the length of every "brain.Event:2" record.
func TestMaskedCRC(t *testing.T) {
	head := []byte{24, 0, 0, 0, 0, 0, 0, 0}
	if got, want := maskedCRC(head), binary.LittleEndian.Uint32([]byte{0xa3, 0x7f, 0x4b, 0x22}); got != want {
		t.Errorf("checksum %08x, expected %08x", got, want)
	}
}

func TestEvents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tensorboard")
	clock := func() time.Time { return time.Unix(1700000000, 250_000_000) }
	var names []string
	for range 2 {
		w, err := createEvents(dir, 7, clock)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.scalar(8, "train/loss", 2.5); err != nil {
			t.Fatal(err)
		}
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Base(w.file.Name()))
	}
	if names[0] == names[1] || !slices.IsSorted(names) {
		t.Errorf("names %q: expected two that sort in the order of writing", names)
	}
	data, err := os.ReadFile(filepath.Join(dir, names[0]))
	if err != nil {
		t.Fatal(err)
	}
	frames, err := readFrames(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(frames) != 3 {
		t.Fatalf("%d records, expected 3", len(frames))
	}
	version, session, scalar := fields(t, frames[0]), fields(t, frames[1]), fields(t, frames[2])
	if got := version[eventFileVersion]; !bytes.Equal(got.([]byte), []byte("brain.Event:2")) {
		t.Errorf("file version %q", got)
	}
	if got := session[eventStep]; got != uint64(8) {
		t.Errorf("session starts at step %v, expected 8", got)
	}
	if got := fields(t, session[eventSessionLog].([]byte))[sessionStatus]; got != uint64(sessionStatusStart) {
		t.Errorf("session status %v, expected %d", got, sessionStatusStart)
	}
	if got := math.Float64frombits(scalar[eventWallTime].(uint64)); got != 1700000000.25 {
		t.Errorf("wall time %v", got)
	}
	value := fields(t, fields(t, scalar[eventSummary].([]byte))[summaryValue].([]byte))
	if tag := string(value[valueTag].([]byte)); tag != "train/loss" {
		t.Errorf("tag %q", tag)
	}
	if v := math.Float32frombits(uint32(value[valueSimple].(uint64))); v != 2.5 {
		t.Errorf("value %v", v)
	}
}
