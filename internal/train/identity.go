package train

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"mlkv/internal/config"
)

// identity is all that decides a run's numbers, by name: the keys of the
// recipe and the checksums of the inputs. Two runs of one identity on one
// device give the same bytes; a run may go on only under its own.
type identity map[string]string

// operational are keys that say how a run is watched and kept, not what it
// computes. They may change when a run goes on.
var operational = []string{
	"log_every", "checkpoint_every", "keep_checkpoints", "tensorboard", "on_nan", "recompute",
}

// newIdentity takes every key of the recipe that is not operational. Those of
// a teacher count where it has a weight; which one it is, its checksum tells.
func newIdentity(recipe config.Uptrain) (identity, error) {
	text, err := yaml.Marshal(recipe)
	if err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(text, &keys); err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	id := identity{}
	for key, node := range keys {
		if node.Kind == yaml.ScalarNode && !slices.Contains(operational, key) {
			id["uptrain."+key] = node.Value
		}
	}
	if d := recipe.Distill; d.Weight > 0 {
		id["uptrain.distill.weight"] = fmt.Sprint(d.Weight)
		id["uptrain.distill.temperature"] = fmt.Sprint(d.Temperature)
	}
	return id, nil
}

// hash names the identity in checkpoints.
func (id identity) hash() string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(id)) {
		fmt.Fprintf(h, "%s=%q\n", key, id[key])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// differences says in which entries the identity departs from that of the run
// which a folder holds; it is empty where they agree.
func (id identity) differences(there identity) string {
	keys := maps.Clone(id)
	maps.Copy(keys, there)
	var out []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if id[key] != there[key] {
			out = append(out, fmt.Sprintf("%s is %s here and %s there", key, orNone(id[key]), orNone(there[key])))
		}
	}
	return strings.Join(out, "; ")
}

func orNone(s string) string {
	if s == "" {
		return "absent"
	}
	return s
}
