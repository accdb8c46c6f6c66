// Package tokenize is the tokenizer as a command: text to ids and back, and the
// training of a tokenizer from files.
package tokenize

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"mlkv/internal/tokenizer"
	"mlkv/internal/ui"
)

// Options say what is encoded or decoded.
type Options struct {
	Tokenizer string // tokenizer.json, or a folder that holds one
	// Texts are encoded one by one; where there are neither texts nor Files,
	// standard input is.
	Texts []string
	Files []string // "-" is standard input
	// JSONL reads each line of a file as a JSON object with a field "text" (with
	// Decode: "ids") or as a JSON string (an array), not the file as one text.
	JSONL bool
	// Decode turns ids into text. Ids are whole numbers between spaces, commas or
	// brackets.
	Decode bool
	// JSON writes objects of text, ids and the tokens' texts, one a line.
	JSON bool
	// Count writes the number of tokens of each text in place of its ids.
	Count bool
}

// Run writes one line for each text: its ids, or with Decode the text of its ids.
func Run(ctx context.Context, o Options, s ui.Streams) error {
	tok, err := tokenizer.Load(o.Tokenizer)
	if err != nil {
		return err
	}
	c := converter{o: o, tok: tok, encoder: tok.NewEncoder(), out: bufio.NewWriter(s.Out)}
	if err := c.all(ctx, s); err != nil {
		return errors.Join(err, c.out.Flush())
	}
	return c.out.Flush()
}

type converter struct {
	o       Options
	tok     *tokenizer.Tokenizer
	encoder *tokenizer.Encoder
	ids     []uint16
	out     *bufio.Writer
}

func (c *converter) all(ctx context.Context, s ui.Streams) error {
	for i, text := range c.o.Texts {
		if err := c.one(text); err != nil {
			return ui.Usagef("tokenize: argument %d: %w", i+1, err)
		}
	}
	files := c.o.Files
	if len(files) == 0 && len(c.o.Texts) == 0 {
		files = []string{"-"}
	}
	for _, path := range files {
		if err := c.file(ctx, path, s.In); err != nil {
			return err
		}
	}
	return nil
}

// file converts a file, or its lines.
func (c *converter) file(ctx context.Context, path string, stdin io.Reader) error {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return ui.Inputf("tokenize: %w", err)
		}
		defer f.Close()
		in = f
	}
	if !c.o.JSONL && !c.o.Decode {
		b, err := io.ReadAll(in)
		if err != nil {
			return ui.Inputf("tokenize: %s: %w", path, err)
		}
		if !utf8.Valid(b) {
			return ui.Inputf("tokenize: %s: expected UTF-8 text", path)
		}
		return c.one(string(b))
	}
	r := bufio.NewReader(in)
	for number := 1; ; number++ {
		line, err := r.ReadString('\n')
		if err != nil && err != io.EOF {
			return ui.Inputf("tokenize: %s:%d: %w", path, number, err)
		}
		if strings.TrimSpace(line) != "" {
			if err := c.line(line); err != nil {
				return ui.Inputf("tokenize: %s:%d: %w", path, number, err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// line converts a line of a file.
func (c *converter) line(line string) error {
	if !c.o.JSONL {
		return c.one(line)
	}
	var object struct {
		Text *string `json:"text"`
		IDs  []int32 `json:"ids"`
	}
	if strings.HasPrefix(strings.TrimSpace(line), "{") {
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			return fmt.Errorf("broken JSON: %w", err)
		}
	} else if c.o.Decode {
		if err := json.Unmarshal([]byte(line), &object.IDs); err != nil {
			return fmt.Errorf("expected an object or an array of ids: %w", err)
		}
	} else if err := json.Unmarshal([]byte(line), &object.Text); err != nil {
		return fmt.Errorf("expected an object or a string: %w", err)
	}
	switch {
	case c.o.Decode && object.IDs == nil:
		return fmt.Errorf(`field "ids" is missing`)
	case c.o.Decode:
		return c.decode(object.IDs)
	case object.Text == nil:
		return fmt.Errorf(`field "text" is missing`)
	}
	return c.encode(*object.Text)
}

func (c *converter) one(text string) error {
	if !c.o.Decode {
		return c.encode(text)
	}
	ids, err := parseIDs(text)
	if err != nil {
		return err
	}
	return c.decode(ids)
}

func parseIDs(text string) ([]int32, error) {
	ids := []int32{}
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n,[]", r) }) {
		id, err := strconv.ParseInt(word, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("expected ids, found %q", word)
		}
		ids = append(ids, int32(id))
	}
	return ids, nil
}

func (c *converter) encode(text string) error {
	c.ids = c.encoder.Append(c.ids[:0], text)
	if c.o.Count {
		_, err := fmt.Fprintln(c.out, len(c.ids))
		return err
	}
	ids := make([]int32, len(c.ids))
	for i, id := range c.ids {
		ids[i] = int32(id)
	}
	if c.o.JSON {
		return c.object(text, ids)
	}
	for i, id := range ids {
		if i > 0 {
			c.out.WriteByte(' ')
		}
		c.out.WriteString(strconv.Itoa(int(id)))
	}
	return c.out.WriteByte('\n')
}

func (c *converter) decode(ids []int32) error {
	for _, id := range ids {
		if c.tok.Token(id) == "" {
			return fmt.Errorf("id %d is not in the vocabulary of %d", id, c.tok.VocabSize())
		}
	}
	text := c.tok.Decode(ids)
	if c.o.JSON {
		return c.object(text, ids)
	}
	_, err := c.out.WriteString(text + "\n")
	return err
}

// object writes a text with its ids and tokens as JSON.
func (c *converter) object(text string, ids []int32) error {
	tokens := make([]string, len(ids))
	for i, id := range ids {
		tokens[i] = c.tok.Token(id)
	}
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Text   string   `json:"text"`
		IDs    []int32  `json:"ids"`
		Tokens []string `json:"tokens"`
	}{text, ids, tokens})
}
