package train

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// eventWriter writes a TensorBoard event file: TFRecord frames
// (tensorflow/core/lib/io/record_writer.h) that each hold one Event message
// (tensorflow/core/util/event.proto).
type eventWriter struct {
	file *os.File
	buf  *bufio.Writer
	now  func() time.Time
}

// Field numbers of the protobuf messages Event, SessionLog, Summary and
// Summary.Value.
const (
	eventWallTime    = 1 // double
	eventStep        = 2 // int64
	eventFileVersion = 3 // string
	eventSummary     = 5 // Summary
	eventSessionLog  = 7 // SessionLog

	sessionStatus      = 1 // enum
	sessionStatusStart = 1

	summaryValue = 1 // repeated Value
	valueTag     = 1 // string
	valueSimple  = 2 // float
)

// createEvents starts an event file in dir for a run that begins after the
// given step. TensorBoard then drops what an earlier file of the same folder
// says about later steps.
func createEvents(dir string, step int, now func() time.Time) (*eventWriter, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	// Files are read in the order of their names.
	var f *os.File
	for n := 0; ; n++ {
		name := fmt.Sprintf("events.out.tfevents.%010d.%03d.mlkv", now().Unix(), n)
		var err error
		f, err = os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if os.IsExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		break
	}
	w := &eventWriter{file: f, buf: bufio.NewWriter(f), now: now}
	version := protowire.AppendTag(nil, eventFileVersion, protowire.BytesType)
	version = protowire.AppendString(version, "brain.Event:2")
	session := protowire.AppendTag(nil, sessionStatus, protowire.VarintType)
	session = protowire.AppendVarint(session, sessionStatusStart)
	start := protowire.AppendTag(nil, eventSessionLog, protowire.BytesType)
	start = protowire.AppendBytes(start, session)
	err := w.event(0, version)
	if err == nil {
		err = w.event(step+1, start)
	}
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// scalar records one value at a step.
func (w *eventWriter) scalar(step int, tag string, v float64) error {
	value := protowire.AppendTag(nil, valueTag, protowire.BytesType)
	value = protowire.AppendString(value, tag)
	value = protowire.AppendTag(value, valueSimple, protowire.Fixed32Type)
	value = protowire.AppendFixed32(value, math.Float32bits(float32(v)))
	summary := protowire.AppendTag(nil, summaryValue, protowire.BytesType)
	summary = protowire.AppendBytes(summary, value)
	body := protowire.AppendTag(nil, eventSummary, protowire.BytesType)
	return w.event(step, protowire.AppendBytes(body, summary))
}

// event writes an Event of the given step whose remaining fields are body.
func (w *eventWriter) event(step int, body []byte) error {
	wall := float64(w.now().UnixMicro()) / 1e6
	msg := protowire.AppendTag(nil, eventWallTime, protowire.Fixed64Type)
	msg = protowire.AppendFixed64(msg, math.Float64bits(wall))
	msg = protowire.AppendTag(msg, eventStep, protowire.VarintType)
	msg = protowire.AppendVarint(msg, uint64(step))
	return writeFrame(w.buf, append(msg, body...))
}

func (w *eventWriter) flush() error { return w.buf.Flush() }

func (w *eventWriter) close() error {
	err := w.buf.Flush()
	if cerr := w.file.Close(); err == nil {
		err = cerr
	}
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is the checksum of a TFRecord, rotated so that a record that holds
// records keeps its checksums apart from its own.
func maskedCRC(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// writeFrame writes one TFRecord: length, its checksum, data, its checksum.
func writeFrame(w io.Writer, data []byte) error {
	frame := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	frame = binary.LittleEndian.AppendUint32(frame, maskedCRC(frame))
	frame = append(frame, data...)
	frame = binary.LittleEndian.AppendUint32(frame, maskedCRC(data))
	_, err := w.Write(frame)
	return err
}
