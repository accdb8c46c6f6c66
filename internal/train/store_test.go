package train

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mlkv/internal/data"
)

// put writes a small checkpoint.
func put(t *testing.T, s store, step int) {
	t.Helper()
	st := state{Step: step, Heldout: -1, Identity: "id", Position: data.Position{Epoch: 1, Row: int64(step)}}
	err := s.save(st, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "weights"), []byte{byte(step)}, 0o666)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	s := store{filepath.Join(t.TempDir(), "checkpoints"), 2}
	if _, found, err := s.find("id", nil); found || err != nil {
		t.Fatalf("empty store: found %v, %v", found, err)
	}
	for step := 5; step <= 20; step += 5 {
		put(t, s, step)
	}
	steps, err := s.steps()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(steps, []int{20, 15}) {
		t.Errorf("kept %v, expected 20 and 15", steps)
	}
	st, found, err := s.find("id", func(err error) { t.Error(err) })
	if err != nil || !found || st.Step != 20 || st.Position.Row != 20 {
		t.Errorf("found %v %+v, %v", found, st, err)
	}
}

// TestStoreDamaged leaves the store as a crash or a bad disk may, and expects
// the newest whole checkpoint.
func TestStoreDamaged(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(s store) error
		want   int
		warns  int
	}{
		"crash while writing": {func(s store) error {
			dir := filepath.Join(s.dir, ".step-30.partial")
			return errors.Join(os.Mkdir(dir, 0o777), os.WriteFile(filepath.Join(dir, "weights"), nil, 0o666))
		}, 20, 0},
		"crash before latest": {func(s store) error {
			return os.WriteFile(filepath.Join(s.dir, latestFile), []byte("step-10\n"), 0o666)
		}, 10, 0},
		"no latest":      {func(s store) error { return os.Remove(filepath.Join(s.dir, latestFile)) }, 20, 0},
		"latest is gone": {func(s store) error { return os.RemoveAll(s.path(20)) }, 10, 0},
		"flipped bit":    {func(s store) error { return os.WriteFile(filepath.Join(s.path(20), "weights"), []byte{21}, 0o666) }, 10, 1},
		"truncated":      {func(s store) error { return os.Truncate(filepath.Join(s.path(20), "weights"), 0) }, 10, 1},
		"file missing":   {func(s store) error { return os.Remove(filepath.Join(s.path(20), "weights")) }, 10, 1},
		"no state":       {func(s store) error { return os.Remove(filepath.Join(s.path(20), stateFile)) }, 10, 1},
		"state cut":      {func(s store) error { return os.Truncate(filepath.Join(s.path(20), stateFile), 40) }, 10, 1},
		"of another run": {func(s store) error {
			st, err := s.verify(20, "id")
			st.Identity = "other"
			return errors.Join(err, s.save(st, func(string) error { return nil }))
		}, 10, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := store{filepath.Join(t.TempDir(), "checkpoints"), 0}
			put(t, s, 10)
			put(t, s, 20)
			if err := c.damage(s); err != nil {
				t.Fatal(err)
			}
			warned := 0
			st, found, err := s.find("id", func(error) { warned++ })
			if err != nil || !found || st.Step != c.want || warned != c.warns {
				t.Fatalf("step %d (found %v, %v) after %d warnings, expected step %d after %d", st.Step, found, err, warned, c.want, c.warns)
			}
			if err := s.clean(); err != nil {
				t.Fatal(err)
			}
			put(t, s, 30)
			if st, _, _ := s.find("id", func(error) {}); st.Step != 30 {
				t.Errorf("step %d after the next checkpoint, expected 30", st.Step)
			}
		})
	}
}

// TestStoreFails lets writing fail and expects the checkpoint before.
func TestStoreFails(t *testing.T) {
	s := store{filepath.Join(t.TempDir(), "checkpoints"), 1}
	put(t, s, 10)
	full := errors.New("disk full")
	err := s.save(state{Step: 20, Identity: "id"}, func(dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "weights"), []byte{1}, 0o666), full)
	})
	if !errors.Is(err, full) {
		t.Fatalf("found %v, expected the cause", err)
	}
	if st, found, _ := s.find("id", func(err error) { t.Error(err) }); !found || st.Step != 10 {
		t.Errorf("step %d, expected 10", st.Step)
	}
	entries, _ := os.ReadDir(s.dir)
	if len(entries) != 2 {
		t.Errorf("%d entries, expected step-10 and latest", len(entries))
	}
}
