package hub

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"mlkv/internal/ui"
)

// choose takes the files to pull, small ones first. Without patterns a data set
// is taken whole, and of a model what a program needs to load it. Errors carry
// ui.ExitUsage.
func choose(repo Repo, files []File, include, exclude []string) ([]File, error) {
	want := func(f File) bool { return f.Path != ".gitattributes" }
	switch {
	case len(include) > 0:
		m, err := matchers(include)
		if err != nil {
			return nil, err
		}
		for i, one := range m {
			if !slices.ContainsFunc(files, func(f File) bool { return one.MatchString(f.Path) }) {
				return nil, ui.Usagef("%s: no file matches %q%s; --list shows all", repo, include[i], ui.DidYouMean(include[i], paths(files)))
			}
		}
		want = func(f File) bool { return matchAny(m, f.Path) }
	case repo.Kind == Model:
		want = wantOfModel(files)
	}
	refused, err := matchers(exclude)
	if err != nil {
		return nil, err
	}
	var chosen []File
	for _, f := range files {
		if want(f) && !matchAny(refused, f.Path) {
			chosen = append(chosen, f)
		}
	}
	if len(chosen) == 0 {
		return nil, ui.Usagef("%s: none of its %d files is chosen; name files or patterns, --list '*' shows all", repo, len(files))
	}
	slices.SortStableFunc(chosen, func(a, b File) int { return cmp.Compare(a.Size, b.Size) })
	return chosen, nil
}

func paths(files []File) []string {
	var out []string
	for _, f := range files {
		out = append(out, f.Path)
	}
	return out
}

// companions are the files beside the weights that loading a model or its
// tokenizer may need.
var companions = []string{
	"config.json", "generation_config.json", "convert.json",
	"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
	"vocab.json", "merges.txt", "README.md", "LICENSE",
}

// weightForms are the forms of weights from the most wanted on: in one file,
// then in shards with their index.
var weightForms = []*regexp.Regexp{
	regexp.MustCompile(`^model\.safetensors$`),
	regexp.MustCompile(`^model(-\d+-of-\d+\.safetensors|\.safetensors\.index\.json)$`),
	regexp.MustCompile(`^pytorch_model\.bin$`),
	regexp.MustCompile(`^pytorch_model(-\d+-of-\d+\.bin|\.bin\.index\.json)$`),
}

// wantOfModel takes one form of the weights at the repository's root and the
// files beside them.
func wantOfModel(files []File) func(File) bool {
	var weights *regexp.Regexp
	for _, form := range weightForms {
		if slices.ContainsFunc(files, func(f File) bool { return form.MatchString(f.Path) }) {
			weights = form
			break
		}
	}
	return func(f File) bool {
		return slices.Contains(companions, f.Path) || weights != nil && weights.MatchString(f.Path)
	}
}

// matchers compiles patterns as the hub's tools read them (Python's fnmatch):
// * and ? also stand for slashes, and a slash at the end for all that is below.
func matchers(patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, p := range patterns {
		re, err := matcher(p)
		if err != nil {
			return nil, err
		}
		out = append(out, re)
	}
	return out, nil
}

func matcher(pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		return nil, ui.Usagef("file pattern: expected a name or a pattern such as *.parquet, found an empty one")
	}
	if strings.HasSuffix(pattern, "/") {
		pattern += "*"
	}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '*':
			b.WriteString(`.*`)
		case '?':
			b.WriteString(`.`)
		case '[':
			class, ok := bracket(pattern[i:])
			if !ok { // without an end it stands for itself
				b.WriteString(`\[`)
				continue
			}
			b.WriteString(classOf(class))
			i += len(class) - 1
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	re, err := regexp.Compile(b.String() + `$`)
	if err != nil {
		return nil, ui.Usagef("file pattern %q: expected * and ? and [...]: %w", pattern, err)
	}
	return re, nil
}

// bracket is the [...] that s begins with; a ] that comes first in it is one of
// its characters.
func bracket(s string) (string, bool) {
	from := 1
	if strings.HasPrefix(s[from:], "!") {
		from++
	}
	if strings.HasPrefix(s[from:], "]") {
		from++
	}
	end := strings.IndexByte(s[from:], ']')
	if end < 0 {
		return "", false
	}
	return s[:from+end+1], true
}

// classOf writes a bracket as a regular expression does.
func classOf(bracket string) string {
	inner, not := strings.CutPrefix(bracket[1:len(bracket)-1], "!")
	inner = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(inner)
	if not {
		inner = "^" + inner
	}
	return "[" + inner + "]"
}

func matchAny(m []*regexp.Regexp, name string) bool {
	return slices.ContainsFunc(m, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}
