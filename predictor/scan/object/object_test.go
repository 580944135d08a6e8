package object

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"forefend.dev/forefend/predictor/scan/numbers"
)

// compile builds C source; it skips the test, saying so, where there is no compiler.
func compile(t testing.TB, source string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc: fixtures are built from source")
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.c"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gcc", append(slices.Clone(args), "-o", out, in)...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("gcc %v: %v: %s", args, err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// library is a shared library whose exported functions do one thing each.
const library = `
#define SYS3(n, a, b, c) ({ long r; __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory"); r; })
extern long syscall(long, ...);
extern int execve(const char *, char *const *, char *const *), system(const char *);
extern void *dlopen(const char *, int);
static __attribute__((noinline)) long wrapper(long n, long a) { return SYS3(n, a, 0, 0); }
static __attribute__((noinline)) long deeper(long a, long n) { return wrapper(n, a) + 1; }
static long in_table(void) { return SYS3(39, 0, 0, 0); }
static long by_address(void) { return SYS3(110, 0, 0, 0); }
long (*const table[])(void) = { in_table };
long direct(void) { return SYS3(102, 0, 0, 0); }
long one_of_two(int x) { return SYS3(x ? 104 : 107, 0, 0, 0); }
long wrapped(void) { return deeper(1, 108); }
long by_import(void) { return syscall(186); }
long anything(long n) { return SYS3(n * 3 + 1, 0, 0, 0); }
void *taken(void) { return (void *)by_address; }
int runs(void) { return execve("/bin/echo", 0, 0); }
int runs_any(const char *p) { return execve(p, 0, 0); }
int shell(void) { return system("date | wc"); }
void *loads(void) { return dlopen("libplug.so.1", 1); }
long foreign(void) { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20)); return r; }
`

// closure is what an exported function may do: the names of its calls, and the imports it uses.
func closure(o *Object, export string) (calls, imports []string) {
	seen := map[int32]bool{}
	todo := slices.Clone(o.Exports[export])
	for len(todo) > 0 {
		fn := todo[0]
		todo = todo[1:]
		if seen[fn] {
			continue
		}
		seen[fn] = true
		for _, n := range o.Numbers[fn] {
			name, _ := numbers.Name(o.Arch, int(n))
			calls = append(calls, name)
		}
		for _, e := range o.Edges[o.First[fn]:o.First[fn+1]] {
			if e < 0 {
				imports = append(imports, o.Imports[^e])
				continue
			}
			todo = append(todo, e)
		}
	}
	slices.Sort(calls)
	return calls, imports
}

func TestLibrary(t *testing.T) {
	for _, flags := range [][]string{{"-O2"}, {"-O0"}, {"-O2", "-fno-plt"}, {"-Os", "-s"}, {"-O2", "-fcf-protection=full", "-Wl,-z,now"}} {
		o, err := Read(compile(t, library, append(flags, "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libtest.so.1")...))
		if err != nil {
			t.Fatal(err)
		}
		if o.Arch != "amd64" {
			t.Skip("gcc is not for x86-64")
		}
		if o.Soname != "libtest.so.1" || o.Static || o.Go {
			t.Errorf("%v: %q static %v go %v", flags, o.Soname, o.Static, o.Go)
		}
		for export, want := range map[string][]string{
			"direct": {"getuid"}, "one_of_two": {"getgid", "geteuid"}, "wrapped": {"getegid"}, "by_import": {"gettid"}, "taken": {"getppid"},
		} {
			slices.Sort(want)
			if got, _ := closure(o, export); !slices.Equal(got, want) {
				t.Errorf("%v: %s calls %q, not %q", flags, export, got, want)
			}
		}
		checkNames(t, o, flags)
		checkRoots(t, o, flags)
	}
}

func checkNames(t *testing.T, o *Object, flags []string) {
	t.Helper()
	for export, want := range map[string]string{"runs": "/bin/echo", "shell": "date | wc", "loads": "libplug.so.1"} {
		fn := o.Exports[export][0]
		if got := o.Commands[fn]; !slices.Equal(got, []string{want}) || o.Dynamic[fn] != 0 {
			t.Errorf("%v: %s: %q, dynamic %d", flags, export, got, o.Dynamic[fn])
		}
	}
	if fn := o.Exports["runs_any"][0]; o.Dynamic[fn] != ExecutesPath {
		t.Errorf("%v: runs_any: dynamic %d", flags, o.Dynamic[fn])
	}
	for _, export := range []string{"anything", "foreign"} {
		if fn := o.Exports[export][0]; len(o.Unknown[fn]) != 1 {
			t.Errorf("%v: %s: unknown %v", flags, export, o.Unknown[fn])
		}
	}
	if _, imports := closure(o, "runs"); !slices.Contains(imports, "execve") {
		t.Errorf("%v: runs uses %q", flags, imports)
	}
}

// What a table points to is there when the library is.
func checkRoots(t *testing.T, o *Object, flags []string) {
	t.Helper()
	var calls []int32
	for _, e := range o.Roots {
		if e >= 0 {
			calls = append(calls, o.Numbers[e]...)
		}
	}
	if !slices.Contains(calls, 39) || slices.Contains(calls, 102) {
		t.Errorf("%v: what is loaded makes the calls %v", flags, calls)
	}
}

// A static program at fixed addresses: its table of functions has no relocations.
func TestStaticProgram(t *testing.T) {
	const program = `
static long call(long n) { long r; __asm__ volatile("syscall" : "=a"(r) : "a"(n) : "rcx", "r11"); return r; }
static void one(void) { call(24); }
static void never(void) { call(169); }
void (*table[])(void) = { one };
void (*volatile unused)(void);
void _start(void) { table[0](); call(60); if (0) never(); }
`
	for _, flags := range [][]string{{"-O2", "-no-pie"}, {"-O0", "-no-pie", "-s"}, {"-O2", "-static-pie"}, {"-O2", "-no-pie", "-fno-asynchronous-unwind-tables", "-s"}} {
		o, err := Read(compile(t, program, append(flags, "-static", "-nostdlib")...))
		if err != nil {
			t.Fatal(err)
		}
		if o.Arch != "amd64" {
			t.Skip("gcc is not for x86-64")
		}
		found := map[int32]bool{}
		seen := map[int32]bool{}
		for todo := slices.Clone(o.Roots); len(todo) > 0; todo = todo[1:] {
			fn := todo[0]
			if fn < 0 || seen[fn] {
				continue
			}
			seen[fn] = true
			for _, n := range o.Numbers[fn] {
				found[n] = true
			}
			todo = append(todo, o.Edges[o.First[fn]:o.First[fn+1]]...)
		}
		if !found[24] || !found[60] || found[169] || len(o.Unknown) > 0 || !o.Static {
			t.Errorf("%v: calls %v, unknown %v, static %v", flags, found, o.Unknown, o.Static)
		}
	}
}

// This very test is a Go program.
func TestGoProgram(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		for _, flags := range []string{"", "-s -w"} {
			o, err := Read(goProgram(t, arch, flags))
			if err != nil {
				t.Fatal(err)
			}
			names := map[string]bool{}
			for _, numbersOf := range o.Numbers {
				for _, n := range numbersOf {
					name, _ := numbers.Name(o.Arch, int(n))
					names[name] = true
				}
			}
			for _, want := range []string{"write", "futex", "clone", "openat", "mmap", "exit_group", "getpid", "sched_yield", "rt_sigaction", "symlinkat", "execve"} {
				if !names[want] {
					t.Errorf("%s %q: %s is not found", arch, flags, want)
				}
			}
			if names["reboot"] || names["init_module"] || !o.Go || o.Arch != arch {
				t.Errorf("%s %q: Go %v, %s, calls %v", arch, flags, o.Go, o.Arch, names)
			}
			for fn, sites := range o.Unknown {
				t.Errorf("%s %q: unknown in %#x: %+v", arch, flags, o.Starts[fn], sites)
			}
			if !slices.Contains(o.Paths, "/usr/bin/forefend-fixture") {
				t.Errorf("%s %q: paths %q", arch, flags, o.Paths)
			}
		}
	}
}

func goProgram(t *testing.T, arch, flags string) []byte {
	t.Helper()
	dir := t.TempDir()
	source := "package main\n\nimport (\n\t\"os\"\n\t\"os/exec\"\n)\n\nfunc main() {\n\tos.Symlink(\"a\", \"b\")\n\t" +
		"exec.Command(\"/usr/bin/forefend-fixture\", \"x\").Run()\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", "out", "main.go")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch, "GOFLAGS=-mod=mod", "GOWORK=off")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("go build for %s: %v: %s", arch, err, b)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNotELF(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty": nil, "script": []byte("#!/bin/sh\n"), "magic alone": []byte("\x7fELF\x02\x01"), "32 bits": append([]byte("\x7fELF\x01\x01"), make([]byte, 100)...),
	} {
		if _, err := Read(b); !errors.Is(err, ErrNotELF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
