package deps

import (
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// node is a package of a made-up module; "~" stands for the module here too.
func node(path string, imports ...string) pkg {
	expand := func(s string) string { return strings.Replace(s, "~", module, 1) }
	p := pkg{path: expand(path), doc: true}
	p.name = p.path[strings.LastIndex(p.path, "/")+1:]
	for _, i := range imports {
		p.imports = append(p.imports, expand(i))
	}
	return p
}

func made(packages ...pkg) graph {
	g := make(graph)
	for _, p := range packages {
		g[p.path] = p
	}
	return g
}

// TestTeethImports breaks every ban of the law once, and checks what must stay allowed.
func TestTeethImports(t *testing.T) {
	const grpc = "google.golang.org/grpc"
	tests := []struct {
		name string
		g    graph
		want string // part of the only violation; "" for none
	}{
		{"shim to predictor", made(node("~/shim", "~/predictor/history")), "shim and predictor meet in cmd only"},
		{"shim to agent, deep", made(node("~/shim/x", "~/y"), node("~/y", "~/z"), node("~/z", "~/agent/host")), "~/y -> ~/z -> ~/agent/host"},
		{"predictor to netns", made(node("~/predictor/threat", "~/netns/nft")), "predictor and netns"},
		{"agent to netns", made(node("~/agent", "~/netns/intercept")), "agent and netns"},
		{"netns to shim", made(node("~/netns/enter", "~/shim")), "netns and shim"},
		{"shared threads", made(node("~/agent/host", "~/netns/enter")), ""},
		{"a shared leaf", made(node("~/shim", "~/predictor/evidence"), node("~/agent", "~/netns/flow")), ""},
		{"cmd joins rooms", made(node("~/cmd/forefend", "~/shim", "~/predictor", "~/agent", "~/netns/nft")), ""},
		{"pure reads files", made(node("~/runtime/policy", "os")), "~/runtime/policy imports os"},
		{"pure executes", made(node("~/runtime/rewrite/deep", "os/exec")), "imports os/exec"},
		{"pure dials", made(node("~/predictor/estimate", "net")), "imports net"},
		{"pure dials HTTP", made(node("~/netns/pdp", "net/http")), "imports net/http"},
		{"pure has addresses", made(node("~/netns/pdp", "net/netip")), ""},
		{"pure logs", made(node("~/predictor/risk", "log/slog")), "imports log/slog"},
		{"pure logs by library", made(node("~/predictor/risk", "github.com/sirupsen/logrus")), "imports github.com/sirupsen/logrus"},
		{"pure rolls dice", made(node("~/predictor/estimate", "crypto/rand")), "imports crypto/rand"},
		{"pure draws from a seed", made(node("~/predictor/estimate", "math/rand/v2")), ""},
		{"pure makes system calls", made(node("~/runtime/rewrite", "golang.org/x/sys/unix")), "golang.org/x/sys/unix"},
		{"pure knows the impure", made(node("~/predictor/estimate", "~/predictor/history")), "only the leaves and other pure"},
		{"pure enters namespaces", made(node("~/netns/pdp", "~/netns/enter")), "only the leaves and other pure"},
		{"pure knows the pure", made(node("~/runtime/rewrite", "~/runtime/policy", "~/runtime/rewrite/rawjson")), ""},
		{"leaf knows more", made(node("~/runtime/workload", "~/runtime/bundle")), "a leaf knows only other leaves"},
		{"stock shim elsewhere", made(node("~/shim", upstreamShim+"/task")), "one package alone knows the stock shim"},
		{"stock shim in its place", made(node("~/shim/internal/upstream", upstreamShim+"/task")), ""},
		{"stock registration", made(node("~/shim/internal/upstream", upstreamShim+"/task/plugin")), "registers the stock task service"},
		{"stock registration, deep", made(node("~/shim/internal/upstream", "x.org/y"), node("x.org/y", upstreamShim+"/task/plugin")), "x.org/y -> " + upstreamShim},
		{"early with containerd", made(node("~/shim/early", "github.com/containerd/log")), "before what it does not import"},
		{"early with late paths, deep", made(node("~/shim/early", "~/shim/internal/cmdline"), node("~/shim/internal/cmdline", "path/filepath")), "-> path/filepath"},
		{"early with protobuf's wire", made(node("~/shim/early", "google.golang.org/protobuf/encoding/protowire")), ""},
		{"second TOML reader", made(node("~/shim", tomlReader)), "config.toml has one reader"},
		{"first TOML reader", made(node("~/cmd/internal/config", tomlReader)), ""},
		{"agent with containerd", made(node("~/agent", "~/runtime/y"), node("~/runtime/y", "github.com/containerd/containerd/v2/client")), "the agent stays small"},
		{"agent with ttrpc", made(node("~/agent", "github.com/containerd/ttrpc", grpc)), ""},
		{"agent binary with TOML, deep", made(node("~/cmd/forefend-agent", "x.org/y"), node("x.org/y", tomlReader)), "the agent stays small"},
		{"agent with CEL", made(node("~/cmd/forefend-agent", "~/netns/pdp")), "the agent stays small"},
		{"agent with a cache", made(node("~/cmd/forefend-agent", "~/netns/pdp/cache")), ""},
		{"another reader of CEL", made(node("~/netns/intercept", "cel.dev/cel-go/cel")), "conditions have one language"},
		{"library knows command", made(node("~/runtime/bundle", "~/cmd/internal/config")), "only commands know commands"},
		{"command knows command", made(node("~/cmd/forefend", "~/cmd/internal/config")), ""},
		{"test code ships", made(node("~/cmd/forefend", "~/test/e2e/harness")), "nothing that ships"},
		{"runtime knows shim", made(node("~/runtime/orchestrator", "~/shim")), "clients of runtime"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			only(t, checkImports(test.g, law), test.want)
		})
	}
}

// only wants one violation that says so, or none.
func only(t *testing.T, found []violation, want string) {
	t.Helper()
	if want == "" {
		if len(found) > 0 {
			t.Errorf("flagged although allowed: %v", found)
		}
		return
	}
	want = strings.ReplaceAll(want, "~", module)
	if len(found) != 1 || !strings.Contains(found[0].String(), want) {
		t.Errorf("got %v, want one that says %q", found, want)
	}
}

func TestTeethTestFiles(t *testing.T) {
	p := node("~/shim")
	p.tests = []string{module + "/predictor/history"}
	only(t, checkImports(made(p), law), "in a test ~/predictor/history")

	// Golden files are read by tests: the ban on files is for what decides.
	p = node("~/runtime/policy")
	p.tests = []string{"os", module + "/runtime/policy"}
	only(t, checkImports(made(p), law), "")
}

func TestTeethNames(t *testing.T) {
	std := pkg{path: "net/netip", name: "netip", standard: true}
	hidden := pkg{path: "internal/profile", name: "profile", standard: true}
	renamed := node("~/shim/wire")
	renamed.name = "types"
	for _, test := range []struct {
		p    pkg
		want string
	}{
		{node("~/runtime/util"), "does not say"},
		{node("~/shim/helpers"), "does not say"},
		{node("~/manager/x"), ""},
		{renamed, "does not say"},
		{node("~/netns/netip"), "hides the standard library's net/netip"},
		{node("~/predictor/profile"), ""},
		{node("~/runtime"), "has Go files"},
	} {
		t.Run(test.p.path, func(t *testing.T) {
			only(t, checkNames(made(std, hidden, test.p)), test.want)
		})
	}
}

func TestTeethDocs(t *testing.T) {
	p := node("~/shim")
	only(t, checkDocs(made(p)), "")
	p.doc = false
	only(t, checkDocs(made(p)), "has no package comment")
}

func TestTeethSource(t *testing.T) {
	for _, test := range []struct {
		name, source string
		want         []string
	}{
		{"clock", "package p\nimport \"time\"\nvar t = time.Now()\nfunc f() { time.Sleep(1) }", []string{"uses time.Now", "uses time.Sleep"}},
		{"clock by value", "package p\nimport \"time\"\nvar now = time.Now", []string{"uses time.Now"}},
		{"renamed clock", "package p\nimport c \"time\"\nvar t = c.Since(c.Time{})", []string{"uses time.Since"}},
		{"unnamed clock", "package p\nimport . \"time\"\nvar t = Now()", []string{"imports time without a name"}},
		{"goroutine", "package p\nfunc f() { go f() }", []string{"starts a goroutine"}},
		{"durations", "package p\nimport \"time\"\nconst d = 3 * time.Second\nfunc f(t time.Time) bool { return t.After(t) }", nil},
		{"another's Now", "package p\ntype c struct{}\nfunc (c) Now() {}\nfunc f(time c) { time.Now() }", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), "p.go", test.source, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := impure(file); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
