package hub

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mlkv/internal/ui"
)

func TestParseRepo(t *testing.T) {
	for name, want := range map[string]Repo{
		"pythia-160m":                       {Model, "EleutherAI/pythia-160m-deduped", "main"},
		"pythia-1.4b-deduped@step3000":      {Model, "EleutherAI/pythia-1.4b-deduped", "step3000"},
		"EleutherAI/pythia-160m":            {Model, "EleutherAI/pythia-160m", "main"},
		"gpt2":                              {Model, "gpt2", "main"},
		"models/pythia-160m":                {Model, "models/pythia-160m", "main"},
		"models/a/b":                        {Model, "a/b", "main"},
		"datasets/a/b@refs/pr/1":            {DataSet, "a/b", "refs/pr/1"},
		"datasets/squad":                    {DataSet, "squad", "main"},
		"pile-deduplicated":                 {DataSet, "EleutherAI/the_pile_deduplicated", "main"},
		"a/b@" + strings.Repeat("0af1", 10): {Model, "a/b", strings.Repeat("0af1", 10)},
	} {
		if got, err := ParseRepo(name); got != want || err != nil {
			t.Errorf("%s: expected %+v, found %+v (%v)", name, want, got, err)
		}
	}
	for name, want := range map[string]string{
		"": "ORG/NAME", "a/b/c": "ORG/NAME", "/a": "ORG/NAME", "a/": "ORG/NAME", "../a": "ORG/NAME", "a--b": "ORG/NAME",
		"a/b.git": "ORG/NAME", "-a/b": "ORG/NAME", "a b": "ORG/NAME", "a/b@": "revision", "a/b@..": "revision",
		"a/b@/x": "revision", "a/b@x/../y": "revision", "a/b@.x": "revision", "a/b@x.lock": "revision", "a/b@x y": "revision",
		"a/b@x\\y": "revision", strings.Repeat("a", 97): "ORG/NAME", "https://x/a/b": "ORG/NAME", "datasets/": "ORG/NAME",
		"pythia_160m!": "did you mean pythia-160m?",
	} {
		_, err := ParseRepo(name)
		if ui.ExitCode(err) != ui.ExitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: expected a usage error with %q, found %v", name, want, err)
		}
	}
	for _, name := range ShortNames() {
		repo, err := ParseRepo(name)
		if again, err2 := ParseRepo(repo.String()); err != nil || err2 != nil || again != repo {
			t.Errorf("%s: expected %s to name it too, found %+v (%v, %v)", name, repo, again, err, err2)
		}
	}
}

func TestEnvironment(t *testing.T) {
	home := t.TempDir()
	stored := filepath.Join(home, "hf", "token")
	os.MkdirAll(filepath.Dir(stored), 0o777)
	os.WriteFile(stored, []byte(" hf_stored\n"), 0o666)
	base := map[string]string{"HOME": home}
	for _, c := range []struct {
		name string
		set  map[string]string
		want Settings
	}{
		{"nothing", nil, Settings{Endpoint: DefaultEndpoint, Cache: home + "/.cache/huggingface/hub"}},
		{"XDG", map[string]string{"XDG_CACHE_HOME": "/x"}, Settings{Endpoint: DefaultEndpoint, Cache: "/x/huggingface/hub"}},
		{"home and token file", map[string]string{"HF_HOME": "~/hf", "HF_ENDPOINT": "http://localhost:1/hub/"},
			Settings{Endpoint: "http://localhost:1/hub", Cache: home + "/hf/hub", Token: "hf_stored", tokenFrom: stored}},
		{"cache and variables", map[string]string{"HF_HOME": "/h", "HF_HUB_CACHE": "$HOME/c", "HF_TOKEN_PATH": "$HF_HOME/none"},
			Settings{Endpoint: DefaultEndpoint, Cache: home + "/c"}},
		{"token beats file", map[string]string{"HF_HOME": home + "/hf", "HF_TOKEN": "hf_a", "HF_HUB_OFFLINE": "yes"},
			Settings{Endpoint: DefaultEndpoint, Cache: home + "/hf/hub", Token: "hf_a", tokenFrom: "HF_TOKEN", Offline: true}},
		{"no stored token", map[string]string{"HF_HOME": home + "/hf", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "7"},
			Settings{Endpoint: DefaultEndpoint, Cache: home + "/hf/hub", Timeout: 7 * time.Second}},
	} {
		env := maps.Clone(base)
		maps.Copy(env, c.set)
		c.want.partSize, c.want.pause = defaultPartSize, defaultPause
		if c.want.Timeout == 0 {
			c.want.Timeout = defaultTimeout
		}
		got, err := Environment(func(name string) string { return env[name] })
		if got != c.want || err != nil {
			t.Errorf("%s: expected\n%+v, found\n%+v (%v)", c.name, c.want, got, err)
		}
	}
	for name, value := range map[string]string{
		"HF_ENDPOINT": "localhost:1", "HF_TOKEN": "hf_\nX: y", "HF_HUB_DOWNLOAD_TIMEOUT": "soon",
	} {
		_, err := Environment(func(n string) string { return map[string]string{name: value, "HOME": home}[n] })
		if ui.ExitCode(err) != ui.ExitUsage || !strings.HasPrefix(err.Error(), name) || name == "HF_TOKEN" && strings.Contains(err.Error(), "hf_") {
			t.Errorf("%s=%q: expected a usage error that names it, found %v", name, value, err)
		}
	}
}

func FuzzParseRepo(f *testing.F) {
	for _, s := range []string{"pythia-70m@step1", "datasets/EleutherAI/pile@refs/pr/1", "a/b", "../..", "a@b@c", "models/a/b", "é/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		repo, err := ParseRepo(name)
		if err != nil {
			if ui.ExitCode(err) != ui.ExitUsage {
				t.Errorf("%q: expected a usage error, found %v", name, err)
			}
			return
		}
		if folder := repo.folder(); !filepath.IsLocal(folder) || strings.ContainsAny(folder, "/\\") {
			t.Errorf("%q: cache folder %q", name, folder)
		}
		if ref := filepath.Join("refs", repo.Revision); !filepath.IsLocal(ref) || !strings.HasPrefix(ref, "refs/") {
			t.Errorf("%q: ref %q", name, ref)
		}
		if repo.Kind == DataSet || strings.Count(repo.ID, "/") == 1 && !strings.HasPrefix(repo.ID, "datasets/") {
			if again, err := ParseRepo(repo.String()); err != nil || again != repo {
				t.Errorf("%q: %+v became %+v (%v)", name, repo, again, err)
			}
		}
	})
}
