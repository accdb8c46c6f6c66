package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"mlkv/internal/ui"
)

// envPrefix begins the environment variables of all keys.
const envPrefix = "MLKV_"

// Sources are what a configuration is laid together from, beside the
// environment and the defaults.
type Sources struct {
	File  string                 // YAML file, or empty
	Set   []string               // "key=value", as --set gives them
	Flags map[string]*pflag.Flag // flags by the key they stand for
}

// Resolved is a valid configuration and where each of its values came from.
type Resolved struct {
	Config
	// Origin gives, for each key, "default", "preset authors", "file:line",
	// the environment variable or the flag.
	Origin map[string]string
}

// Resolve lays flags over the environment, over the file, over the defaults,
// and validates the result. Errors are of kind ui.Usagef.
func Resolve(s Sources) (Resolved, error) {
	v := viper.New()
	origin := map[string]string{}
	for _, layer := range []func(*viper.Viper, map[string]string) error{
		addDefaults, s.addFile, addEnv, s.addFlags, s.addSet,
	} {
		if err := layer(v, origin); err != nil {
			return Resolved{}, err
		}
	}
	applyPreset(v, origin)

	r := Resolved{Origin: origin}
	for _, f := range schema {
		val, err := f.convert(v.Get(f.key))
		if err != nil {
			return Resolved{}, ui.Usagef("%s: %s: %w", origin[f.key], f.key, err)
		}
		f.set(&r.Config, val)
	}
	return r, r.check()
}

func addDefaults(v *viper.Viper, origin map[string]string) error {
	def := Default()
	for _, f := range schema {
		v.SetDefault(f.key, f.get(&def))
		origin[f.key] = "default"
	}
	return nil
}

// addFile hands viper only what was decoded strictly before, since viper
// itself takes any key in any case.
func (s Sources) addFile(v *viper.Viper, origin map[string]string) error {
	if s.File == "" {
		return nil
	}
	values, err := readFile(s.File)
	if err != nil {
		return err
	}
	tree := map[string]any{}
	for key, val := range values {
		at, path := tree, strings.Split(key, ".")
		for _, p := range path[:len(path)-1] {
			if at[p] == nil {
				at[p] = map[string]any{}
			}
			at = at[p].(map[string]any)
		}
		at[path[len(path)-1]] = val.v
		origin[key] = val.from
	}
	return v.MergeConfigMap(tree)
}

// addEnv takes the variable of each key where it is not empty. A variable that
// begins like those of a section but names no key of it is an error.
func addEnv(v *viper.Viper, origin map[string]string) error {
	var names []string
	for _, f := range schema {
		names = append(names, f.env())
		if err := v.BindEnv(f.key, f.env()); err != nil {
			return err
		}
		if os.Getenv(f.env()) != "" {
			origin[f.key] = f.env()
		}
	}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		if value != "" && inSection(name) && !slices.Contains(names, name) {
			return ui.Usagef("environment variable %s: names no key%s", name, ui.DidYouMean(name, names))
		}
	}
	return nil
}

func inSection(name string) bool {
	return slices.ContainsFunc(schema, func(f field) bool {
		head, _, nested := strings.Cut(f.key, ".")
		return nested && strings.HasPrefix(name, envPrefix+strings.ToUpper(head)+"_")
	})
}

func (s Sources) addFlags(v *viper.Viper, origin map[string]string) error {
	for key, flag := range s.Flags {
		if !flag.Changed {
			continue
		}
		if err := v.BindPFlag(key, flag); err != nil {
			return err
		}
		origin[key] = "--" + flag.Name
	}
	return nil
}

func (s Sources) addSet(v *viper.Viper, origin map[string]string) error {
	for _, arg := range s.Set {
		key, text, ok := strings.Cut(arg, "=")
		if !ok {
			return ui.Usagef("--set %s: expected KEY=VALUE", arg)
		}
		f, ok := lookup(key)
		if !ok {
			return ui.Usagef("--set %s: %s", arg, unknownKey(key))
		}
		if strings.HasPrefix(origin[key], "--") {
			return ui.Usagef("--set %s: %s was given before by %s; give it once", arg, key, origin[key])
		}
		val, err := f.convert(text)
		if err != nil {
			return ui.Usagef("--set %s: %w", arg, err)
		}
		v.Set(key, val)
		origin[key] = "--set"
	}
	return nil
}

// applyPreset puts a preset's values in the place of defaults; what was given
// by any other means stays.
func applyPreset(v *viper.Viper, origin map[string]string) {
	name := v.GetString("convert.preset")
	for key, val := range presets[name] {
		if origin[key] == "default" {
			v.SetDefault(key, val)
			origin[key] = "preset " + name
		}
	}
}

// convert turns a value as viper holds it, which is text where it came from
// the environment, into the field's type.
func (f field) convert(v any) (any, error) {
	if v != nil && reflect.TypeOf(v) == f.typ {
		return v, nil
	}
	text, ok := v.(string)
	if !ok {
		text = fmt.Sprint(v)
	}
	out, err := f.parse(text)
	if err != nil {
		return nil, fmt.Errorf("expected %s, found %q", f.expected(), text)
	}
	return out, nil
}

// parse reads a value from text; a list is separated by commas.
func (f field) parse(text string) (any, error) {
	text = strings.TrimSpace(text)
	switch f.typ.Kind() {
	case reflect.Int:
		return strconv.Atoi(text)
	case reflect.Int64:
		return strconv.ParseInt(text, 10, 64)
	case reflect.Float64:
		return strconv.ParseFloat(text, 64)
	case reflect.Bool:
		return strconv.ParseBool(text)
	case reflect.Slice:
		list := reflect.MakeSlice(f.typ, 0, 0)
		for part := range strings.SplitSeq(strings.Trim(text, "[]"), ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			element, err := field{typ: f.typ.Elem()}.parse(part)
			if err != nil {
				return nil, err
			}
			list = reflect.Append(list, reflect.ValueOf(element))
		}
		return list.Interface(), nil
	}
	return text, nil
}
