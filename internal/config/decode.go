package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"mlkv/internal/ui"
)

// extendsKey names a file, relative to the one that holds it, whose values
// apply where this one has none. It is a matter of files and so no field of
// Config.
const extendsKey = "extends"

// value is a decoded leaf and where it stands.
type value struct {
	v    any
	from string // "file:line"
}

// readFile decodes a YAML file, and before it the file that it extends, into
// the values of the keys that they set.
func readFile(path string) (map[string]value, error) {
	return readChain(path, nil)
}

func readChain(path string, chain []string) (map[string]value, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if slices.Contains(chain, abs) {
		return nil, ui.Usagef("%s: extends itself through %s", path, strings.Join(chain, ", "))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, ui.Usagef("configuration file: %w", err)
	}
	values, extends, err := decode(path, data)
	if err != nil || extends.v == nil {
		return values, err
	}
	parent := extends.v.(string)
	if !filepath.IsAbs(parent) {
		parent = filepath.Join(filepath.Dir(path), parent)
	}
	merged, err := readChain(parent, append(chain, abs))
	if err != nil {
		return nil, fmt.Errorf("%s: extends: %w", extends.from, err)
	}
	for k, v := range values {
		merged[k] = v
	}
	return merged, nil
}

// decode reads one YAML document strictly: every key must be in the schema,
// stand once and hold a value of its type.
func decode(file string, data []byte) (values map[string]value, extends value, err error) {
	values = map[string]value{}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return values, value{}, nil
	} else if err != nil {
		return nil, value{}, ui.Usagef("%s: not YAML: %w", file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, value{}, ui.Usagef("%s: expected one YAML document, found several", file)
	}
	d := decoder{file: file, values: values}
	if err := d.mapping(doc.Content[0], ""); err != nil {
		return nil, value{}, err
	}
	extends = d.values[extendsKey]
	delete(d.values, extendsKey)
	return d.values, extends, nil
}

type decoder struct {
	file   string
	values map[string]value
}

func (d *decoder) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", d.file, n.Line) }

// mapping decodes the keys below prefix, which is empty or ends in a dot.
func (d *decoder) mapping(n *yaml.Node, prefix string) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && prefix == "" {
		return nil // nothing but comments
	}
	if n.Kind != yaml.MappingNode {
		return ui.Usagef("%s: %s: expected keys and values, found %s", d.at(n), section(prefix), found(n))
	}
	seen := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		name, v := n.Content[i], n.Content[i+1]
		key := prefix + name.Value
		if line, ok := seen[key]; ok {
			return ui.Usagef("%s: %s: stands twice, first on line %d", d.at(name), key, line)
		}
		seen[key] = name.Line
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		if err := d.entry(key, name, v); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) entry(key string, name, v *yaml.Node) error {
	if isSection(key) {
		return d.mapping(v, key+".")
	}
	f, ok := lookup(key)
	if key == extendsKey {
		f, ok = field{key: key, typ: reflect.TypeFor[string]()}, true
	}
	if !ok {
		return ui.Usagef("%s: %s", d.at(name), unknownKey(key))
	}
	val := reflect.New(f.typ)
	if v.Tag == "!!null" || !fits(v, f.typ) || v.Decode(val.Interface()) != nil {
		return ui.Usagef("%s: %s: expected %s, found %s", d.at(v), key, f.expected(), found(v))
	}
	d.values[key] = value{val.Elem().Interface(), d.at(v)}
	return nil
}

// fits keeps yaml from turning one kind of scalar into another.
func fits(n *yaml.Node, t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String:
		return n.Kind == yaml.ScalarNode
	case reflect.Bool:
		return n.Tag == "!!bool"
	case reflect.Int, reflect.Int64:
		return n.Tag == "!!int"
	case reflect.Float64:
		return n.Tag == "!!int" || n.Tag == "!!float"
	case reflect.Slice:
		return n.Kind == yaml.SequenceNode &&
			!slices.ContainsFunc(n.Content, func(e *yaml.Node) bool { return e.Kind != yaml.ScalarNode })
	}
	return false
}

func found(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing (leave the key out to take its default)"
	}
	return fmt.Sprintf("%q", n.Value)
}

func section(prefix string) string {
	if prefix == "" {
		return "the file"
	}
	return strings.TrimSuffix(prefix, ".")
}

func isSection(key string) bool {
	return slices.ContainsFunc(schema, func(f field) bool { return strings.HasPrefix(f.key, key+".") })
}

// unknownKey says that a key does not exist and what may have been meant: the
// key of the same name in another section, or one that differs by few letters.
func unknownKey(key string) string {
	keys := append(Keys(), extendsKey)
	byName := map[string]string{}
	var names []string
	for _, k := range keys {
		n := k[strings.LastIndex(k, ".")+1:]
		byName[n] = k
		names = append(names, n)
	}
	name := key[strings.LastIndex(key, ".")+1:]
	meant, ok := byName[name]
	if !ok {
		meant, ok = ui.Nearest(key, keys)
	}
	if !ok {
		if name, ok = ui.Nearest(name, names); ok {
			meant = byName[name]
		}
	}
	if !ok {
		return fmt.Sprintf("unknown key %s; configs/reference.yaml explains every key", key)
	}
	return fmt.Sprintf("unknown key %s (did you mean %s?)", key, meant)
}
