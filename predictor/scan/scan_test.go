package scan

import (
	"debug/elf"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

// place writes a file into a root filesystem.
func place(t testing.TB, root, name string, content []byte, mode os.FileMode) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, mode); err != nil {
		t.Fatal(err)
	}
}

// install copies programs of this machine, with the libraries they need, into a root filesystem. Where they are not as
// expected the test is skipped, saying so.
func install(t testing.TB, root string, programs ...string) {
	t.Helper()
	for len(programs) > 0 {
		name := programs[0]
		programs = programs[1:]
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			t.Skipf("this machine lacks %s: %v", name, err)
		}
		place(t, root, name, content, 0o755)
		f, err := elf.Open(name)
		if err != nil || f.Machine != elf.EM_X86_64 {
			t.Skipf("%s is no program for x86-64: %v", name, err)
		}
		for _, p := range f.Progs {
			if b := make([]byte, p.Filesz); p.Type == elf.PT_INTERP {
				if _, err := p.ReadAt(b, 0); err == nil {
					programs = append(programs, strings.TrimRight(string(b), "\x00"))
				}
			}
		}
		needed, err := f.ImportedLibraries()
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, lib := range needed {
			for _, dir := range defaultDirs("amd64") {
				if _, err := os.Stat(path.Join(dir, lib)); err == nil {
					programs = append(programs, path.Join(dir, lib))
					break
				}
			}
		}
	}
}

func analyze(t testing.TB, layers []string, req Request) evidence.Scan {
	t.Helper()
	var s evidence.Scan
	if err := Analyze(t.Context(), rootfs.Open(layers), req, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func programs(s evidence.Scan) (names []string) {
	for _, p := range s.Programs {
		if p.Kind == "elf" || p.Kind == "script" {
			names = append(names, p.Path)
		}
	}
	slices.Sort(names)
	return names
}

func TestShellCommands(t *testing.T) {
	root := t.TempDir()
	install(t, root, "/bin/sh", "/bin/ls", "/bin/sleep", "/bin/cat")
	place(t, root, "/usr/local/bin/entry", []byte("#!/bin/sh\nset -e\nls /etc\nexec \"$@\"\n"), 0o755)
	place(t, root, "/usr/local/bin/plain", []byte("cat /etc/passwd\n"), 0o755)
	for _, c := range []struct {
		name    string
		command []string
		want    []string
		unknown int
	}{
		{"text", []string{"sh", "-c", "ls | cat"}, []string{"/bin/cat", "/bin/ls", "/bin/sh"}, 0},
		{"builtins are no programs", []string{"sh", "-c", "echo a; test b"}, []string{"/bin/sh"}, 0},
		{"arguments of a script", []string{"entry", "sleep", "1"}, []string{"/bin/ls", "/bin/sh", "/bin/sleep", "/usr/local/bin/entry"}, 0},
		{"no first line", []string{"plain"}, []string{"/bin/cat", "/bin/sh", "/usr/local/bin/plain"}, 0},
		{"not constant", []string{"sh", "-c", "$X; eval \"$Y\""}, []string{"/bin/sh"}, 2},
		{"nested", []string{"sh", "-c", "trap 'sleep 1' EXIT; sh -c 'cat x'"}, []string{"/bin/cat", "/bin/sh", "/bin/sleep"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := analyze(t, []string{root}, Request{Command: c.command})
			if got := programs(s); !slices.Equal(got, c.want) || len(s.Unknown) != c.unknown {
				t.Errorf("programs %q, unknown %+v", got, s.Unknown)
			}
			for _, name := range []string{"execve", "read", "mmap", "exit_group", "rt_sigreturn", "clone", "wait4", "dup2"} {
				if !slices.Contains(s.Syscalls, name) {
					t.Errorf("%s is not predicted", name)
				}
			}
			for _, name := range []string{"ptrace", "mount", "io_uring_setup", "bpf", "init_module"} {
				if slices.Contains(s.Syscalls, name) {
					t.Errorf("%s is predicted", name)
				}
			}
		})
	}
}

func TestLayers(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	install(t, lower, "/bin/sh", "/bin/ls")
	if err := os.MkdirAll(filepath.Join(upper, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := analyze(t, []string{upper, lower}, Request{Command: []string{"/bin/sh", "-c", "ls"}})
	if got := programs(s); !slices.Equal(got, []string{"/bin/ls", "/bin/sh"}) {
		t.Errorf("%q", got)
	}
	if err := syscall.Mknod(filepath.Join(upper, "bin/ls"), syscall.S_IFCHR, 0); err != nil {
		t.Skipf("no whiteouts here: %v", err)
	}
	s = analyze(t, []string{upper, lower}, Request{Command: []string{"/bin/sh", "-c", "ls"}})
	if got := programs(s); !slices.Equal(got, []string{"/bin/sh"}) {
		t.Errorf("what is whited out runs: %q", got)
	}
}

func TestRemembered(t *testing.T) {
	root, cache := t.TempDir(), t.TempDir()
	install(t, root, "/bin/sh", "/bin/ls")
	place(t, root, "/run.sh", []byte("#!/bin/sh\nls\n"), 0o755)
	req := Request{Command: []string{"/run.sh"}, Cache: cache}
	first := analyze(t, []string{root}, req)
	second := analyze(t, []string{root}, req)
	if first.Cached > 1 || second.Cached != len(second.Programs) {
		t.Errorf("cached: first %d, second %d", first.Cached, second.Cached)
	}
	second.Cached = first.Cached
	if !reflect.DeepEqual(first, second) {
		t.Errorf("first\n%+v\nsecond\n%+v", first, second)
	}
	place(t, root, "/run.sh", []byte("#!/bin/sh\necho\n"), 0o755)
	third := analyze(t, []string{root}, req)
	if got := programs(third); !slices.Equal(got, []string{"/bin/sh", "/run.sh"}) || third.Cached == 0 {
		t.Errorf("after a change: %q, cached %d of %d", got, third.Cached, len(third.Programs))
	}
}

func TestNoProgram(t *testing.T) {
	root := t.TempDir()
	place(t, root, "/bin/data", []byte("\x7fELFdamaged"), 0o755)
	place(t, root, "/bin/mode", []byte("\x7fELF"), 0o644)
	for _, command := range [][]string{nil, {"missing"}, {"/bin/data"}, {"/bin/mode"}, {"/../../../../bin/ls"}} {
		var s evidence.Scan
		if err := Analyze(t.Context(), rootfs.Open([]string{root}), Request{Command: command}, &s); err == nil {
			t.Errorf("%q: no error: %+v", command, s)
		}
	}
}

func TestLanguages(t *testing.T) {
	for name, want := range map[string]string{
		"python3.11": "python", "python3": "python", "perl": "perl", "perl5.36.0": "perl", "ruby3.1": "ruby", "node": "node", "nodejs": "node",
		"php8.2": "php", "php-fpm8.2": "php", "java": "java", "lua5.4": "lua", "tclsh8.6": "tclsh", "nodeinfo": "", "bash": "", "javac": "",
	} {
		if got := language(name); got != want {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
}

func TestSources(t *testing.T) {
	root := t.TempDir()
	install(t, root, "/bin/sh", "/bin/ls", "/bin/cat")
	for _, c := range []struct {
		name, text string
		want       []string
		unknown    int
	}{
		{"constant path", "subprocess.check_output(['/bin/ls', '-l'])", []string{"/bin/ls", "/bin/sh"}, 0},
		{"by name", "os.system('cat /etc/passwd')", []string{"/bin/cat", "/bin/sh"}, 0},
		{"not constant", "subprocess.run(command)", []string{"/bin/sh"}, 1},
		{"nothing", "print('cat')", nil, 0},
		{"C functions", "import ctypes\n", nil, 1},
	} {
		var s evidence.Scan
		w := newWorld(t.Context(), newView(rootfs.Open([]string{root})), &store{}, Request{}, &s)
		w.source(&program{main: &loaded{path: "/usr/bin/python3"}}, "python", []byte(c.text), "/app.py")
		if got := programs(s); !slices.Equal(got, c.want) || len(s.Unknown) != c.unknown {
			t.Errorf("%s: %q, %+v", c.name, got, s.Unknown)
		}
	}
}
