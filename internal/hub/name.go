package hub

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"mlkv/internal/ui"
)

// Kind says what a repository holds. Its value is the prefix of names, API
// paths and cache folders.
type Kind string

// The kinds of repositories that can be pulled.
const (
	Model   Kind = "models"
	DataSet Kind = "datasets"
)

// mainRevision is the branch that is meant where none is named.
const mainRevision = "main"

// Repo is a repository of the hub at a revision.
type Repo struct {
	Kind     Kind
	ID       string // ORG/NAME, or NAME for the hub's oldest repositories
	Revision string // branch, tag or commit
}

// dedupedSizes are the models of the Pythia suite, each of which the hub has
// trained on the Pile and on the deduplicated Pile. The paper uses the latter.
var dedupedSizes = []string{"14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b"}

// shortNames stand for the repositories that the paper and its code use.
var shortNames = func() map[string]Repo {
	names := map[string]Repo{
		// The text that the deduplicated Pythia models were trained on.
		"pile-deduplicated": {Kind: DataSet, ID: "EleutherAI/the_pile_deduplicated"},
		// The same in the tokens and the order of their training.
		"pile-pythia": {Kind: DataSet, ID: "EleutherAI/pile-deduped-pythia-preshuffled"},
		// The packed rows that the MLKV authors uptrained on.
		"pile-mlkv": {Kind: DataSet, ID: "zaydzuhri/the_pile_tokenized_5percent_truncated_packed"},
	}
	for _, size := range dedupedSizes {
		repo := Repo{Kind: Model, ID: "EleutherAI/pythia-" + size + "-deduped"}
		names["pythia-"+size] = repo
		names["pythia-"+size+"-deduped"] = repo
	}
	return names
}()

// ShortNames lists the short names that ParseRepo knows.
func ShortNames() []string { return slices.Sorted(maps.Keys(shortNames)) }

// namePart is one side of ORG/NAME (huggingface_hub, validate_repo_id).
var namePart = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// commitPattern is a full commit hash, which is a folder's name in the cache.
var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// ParseRepo reads [models/|datasets/]ORG/NAME[@REVISION] or a short name. The
// revision is main where none is given. Errors carry ui.ExitUsage.
func ParseRepo(name string) (Repo, error) {
	id, revision, at := strings.Cut(name, "@")
	if !at {
		revision = mainRevision
	}
	repo, short := shortNames[id]
	if !short {
		repo = Repo{Kind: Model, ID: id}
		for _, kind := range []Kind{Model, DataSet} {
			rest, ok := strings.CutPrefix(id, string(kind)+"/")
			// A model's organisation may be called models.
			if ok && (kind == DataSet || strings.Contains(rest, "/")) {
				repo = Repo{Kind: kind, ID: rest}
			}
		}
	}
	repo.Revision = revision
	if err := checkID(repo.ID); err != nil {
		return Repo{}, ui.Usagef("repository %q: %w%s", name, err, ui.DidYouMean(id, ShortNames()))
	}
	if err := checkRevision(revision); err != nil {
		return Repo{}, ui.Usagef("repository %q: revision %q: %w", name, revision, err)
	}
	return repo, nil
}

func checkID(id string) error {
	parts := strings.Split(id, "/")
	bad := len(parts) > 2 || len(id) > 96 || strings.Contains(id, "--") || strings.Contains(id, "..") || strings.HasSuffix(id, ".git")
	for _, p := range parts {
		bad = bad || !namePart.MatchString(p)
	}
	if bad {
		return fmt.Errorf("expected ORG/NAME of letters, digits, _, . and -, at most 96 characters, or a short name")
	}
	return nil
}

// checkRevision follows git's rules for the names of references, so that a
// revision is also a path that stays below refs.
func checkRevision(rev string) error {
	bad := rev == "" || len(rev) > 200 || strings.Contains(rev, "@{") || strings.Contains(rev, "..") ||
		strings.ContainsFunc(rev, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) })
	for part := range strings.SplitSeq(rev, "/") {
		bad = bad || part == "" || part[0] == '.' || strings.HasSuffix(part, ".") || strings.HasSuffix(part, ".lock")
	}
	if bad {
		return fmt.Errorf("expected the name of a branch or tag, or a commit")
	}
	return nil
}

// String is the name that ParseRepo reads, without the revision where it is
// main.
func (r Repo) String() string {
	s := r.ID
	if r.Kind == DataSet {
		s = string(DataSet) + "/" + s
	}
	if r.Revision != mainRevision {
		s += "@" + r.Revision
	}
	return s
}

// folder is the repository's name in the cache.
func (r Repo) folder() string {
	return string(r.Kind) + "--" + strings.ReplaceAll(r.ID, "/", "--")
}
