package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// field is a leaf of the schema.
type field struct {
	key   string // path of yaml tags, "uptrain.steps"
	index []int  // for reflect.Value.FieldByIndex on Config
	typ   reflect.Type
}

// schema lists the leaves of Config in the order of their declaration.
var schema = leaves(reflect.TypeFor[Config](), "", nil)

func leaves(t reflect.Type, prefix string, index []int) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		key := prefix + f.Tag.Get("yaml")
		at := append(append([]int(nil), index...), i)
		if f.Type.Kind() == reflect.Struct {
			out = append(out, leaves(f.Type, key+".", at)...)
			continue
		}
		out = append(out, field{key, at, f.Type})
	}
	return out
}

// Keys lists every key in the order of the schema.
func Keys() []string {
	out := make([]string, len(schema))
	for i, f := range schema {
		out[i] = f.key
	}
	return out
}

func lookup(key string) (field, bool) {
	for _, f := range schema {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}

// get returns the value of the field in c.
func (f field) get(c *Config) any { return reflect.ValueOf(c).Elem().FieldByIndex(f.index).Interface() }

// set stores v, whose type is the field's, in c.
func (f field) set(c *Config, v any) {
	reflect.ValueOf(c).Elem().FieldByIndex(f.index).Set(reflect.ValueOf(v))
}

// env is the environment variable of the field, "MLKV_UPTRAIN_STEPS".
func (f field) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(f.key, ".", "_"))
}

// expected names the field's type in messages.
func (f field) expected() string {
	switch f.typ.Kind() {
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		if f.typ.Elem().Kind() == reflect.Int {
			return "a list of whole numbers"
		}
		return "a list"
	default:
		return "text"
	}
}

// AddFlag defines a flag of the key's type whose default is the key's. The
// value reaches a Config through Sources.Flags.
func AddFlag(set *pflag.FlagSet, key, name, usage string) *pflag.Flag {
	f, ok := lookup(key)
	if !ok {
		panic(fmt.Sprintf("config: flag --%s is bound to unknown key %q", name, key))
	}
	def := Default()
	switch v := f.get(&def).(type) {
	case string:
		set.String(name, v, usage)
	case int:
		set.Int(name, v, usage)
	case int64:
		set.Int64(name, v, usage)
	case float64:
		set.Float64(name, v, usage)
	case bool:
		set.Bool(name, v, usage)
	case []string:
		set.StringSlice(name, v, usage)
	case []int:
		set.Var((*intList)(&v), name, usage)
	default:
		panic(fmt.Sprintf("config: key %q has the type %s, which no flag can hold", key, f.typ))
	}
	return set.Lookup(name)
}

// intList is a flag of whole numbers, separated by commas. In contrast to
// pflag's own it may be empty.
type intList []int

func (l *intList) Type() string { return "ints" }

func (l *intList) String() string {
	parts := make([]string, len(*l))
	for i, n := range *l {
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ",")
}

func (l *intList) Set(text string) error {
	list, err := field{typ: reflect.TypeFor[[]int]()}.parse(text)
	if err != nil {
		return fmt.Errorf("expected whole numbers, found %q", text)
	}
	*l = list.([]int)
	return nil
}
