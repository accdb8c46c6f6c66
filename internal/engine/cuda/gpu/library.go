package gpu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A library is one of NVIDIA's shared libraries that is opened at run time.
type library struct {
	title  string   // in messages, for example "NVRTC"
	soname string   // without version, for example "libnvrtc.so"
	env    string   // variable that names the file itself
	wheels []string // folders of the Python wheels below site-packages/nvidia
	pip    string   // what to install
}

var (
	nvrtcLibrary = library{
		title: "NVRTC, the CUDA run-time compiler", soname: "libnvrtc.so", env: "MLKV_NVRTC",
		wheels: []string{"cu13/lib", "cuda_nvrtc/lib"}, pip: "nvidia-cuda-nvrtc",
	}
	cublasLtLibrary = library{
		title: "cuBLASLt", soname: "libcublasLt.so", env: "MLKV_CUBLASLT",
		wheels: []string{"cu13/lib", "cublas/lib"}, pip: "nvidia-cublas",
	}
)

// majors lists the library versions that work with a driver, best first: a
// library may be older than the driver but not of a newer generation.
func majors(driver string) []string {
	if strings.HasPrefix(driver, "12.") {
		return []string{"12"}
	}
	return []string{"13", "12"}
}

// open calls try with each place where the library may be, until one succeeds:
// the file that the environment names, the loader's own path, the CUDA
// toolkit, and the wheels of the Python installations.
func (l library) open(driver string, try func(path string) error) error {
	if path := os.Getenv(l.env); path != "" {
		if err := try(path); err != nil {
			return fmt.Errorf("%s: %s=%s: %w", l.title, l.env, path, err)
		}
		return nil
	}
	var first error
	for _, path := range l.candidates(driver) {
		err := try(path)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return fmt.Errorf("%s: expected %s version %s in the loader's path, in CUDA_HOME or in a Python environment, found none (%v); "+
		"install the CUDA toolkit or `pip install %s`, or set %s to the file",
		l.title, l.soname, strings.Join(majors(driver), " or "), first, l.pip, l.env)
}

// candidates lists names for the loader first, then files that exist.
func (l library) candidates(driver string) []string {
	var names, files []string
	for _, major := range majors(driver) {
		name := l.soname + "." + major
		names = append(names, name)
		for _, dir := range l.folders() {
			if file := filepath.Join(dir, name); exists(file) {
				files = append(files, file)
			}
		}
	}
	return append(names, files...)
}

func (l library) folders() []string {
	var dirs []string
	add := func(pattern string) {
		found, _ := filepath.Glob(pattern) // the only error is a bad pattern
		slices.Reverse(found)              // newer versions first
		dirs = append(dirs, found...)
	}
	for _, env := range []string{"CUDA_HOME", "CUDA_PATH"} {
		if root := os.Getenv(env); root != "" {
			add(filepath.Join(root, "lib64"))
			add(filepath.Join(root, "targets/*/lib"))
		}
	}
	add("/usr/local/cuda/lib64")
	add("/usr/local/cuda-*/lib64")
	add("/opt/cuda/lib64")
	for _, root := range pythonRoots() {
		for _, packages := range []string{"site-packages", "dist-packages"} {
			for _, wheel := range l.wheels {
				add(filepath.Join(root, "lib/python3*", packages, "nvidia", wheel))
			}
		}
	}
	return dirs
}

// pythonRoots lists the prefixes of the Python installations at hand.
func pythonRoots() []string {
	var roots []string
	for _, env := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if root := os.Getenv(env); root != "" {
			roots = append(roots, root)
		}
	}
	if python, err := exec.LookPath("python3"); err == nil {
		roots = append(roots, filepath.Dir(filepath.Dir(python)))
	}
	if home, err := os.UserHomeDir(); err == nil {
		roots = append(roots, filepath.Join(home, ".local"))
	}
	roots = append(roots, "/usr/local", "/usr")
	return slices.Compact(roots)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
