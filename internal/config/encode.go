package config

import (
	"bytes"

	"gopkg.in/yaml.v3"
)

// YAML writes the configuration with every key, in the order of the schema.
// Reading it back gives the same configuration.
func (c Config) YAML() ([]byte, error) { return encode(c) }

// YAMLWithOrigins is YAML with a comment behind each value that says where it
// comes from.
func (r Resolved) YAMLWithOrigins() ([]byte, error) {
	var doc yaml.Node
	if err := doc.Encode(r.Config); err != nil {
		return nil, err
	}
	r.annotate(&doc, "")
	return encode(&doc)
}

// annotate adds origins to the values of a mapping below prefix.
func (r Resolved) annotate(n *yaml.Node, prefix string) {
	for i := 0; i < len(n.Content); i += 2 {
		name, v := n.Content[i], n.Content[i+1]
		switch v.Kind {
		case yaml.MappingNode:
			r.annotate(v, prefix+name.Value+".")
		case yaml.SequenceNode:
			v.Style = yaml.FlowStyle // one line, so that the comment has a place
			fallthrough
		default:
			v.LineComment = r.Origin[prefix+name.Value]
		}
	}
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}
