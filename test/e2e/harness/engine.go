package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// engine is one version of containerd, as far as the harness has to treat it differently.
type engine struct {
	version   string // as people write it: "1.7"
	dir       string // of its binaries below BinDir; "" for BinDir itself
	schema    int    // of its configuration
	socketDir bool   // it tells shims where to listen
	cri       string // name of the plugin that holds CRI's runtime settings
}

const (
	criOld = "io.containerd.grpc.v1.cri"
	criNew = "io.containerd.cri.v1.runtime"
)

// engines is every containerd that `make setup-test` provides, the oldest first, the default last.
var engines = []engine{
	{version: "1.6", dir: "containerd-1.6", schema: 2, cri: criOld},
	{version: "1.7", dir: "containerd-1.7", schema: 2, cri: criOld},
	{version: "2.0", dir: "containerd-2.0", schema: 3, cri: criNew},
	{version: "2.2", dir: "containerd-2.2", schema: 3, cri: criNew},
	{version: "2.4", schema: 3, socketDir: true, cri: criNew},
}

// Engines lists the versions that WithContainerd knows, the oldest first. The last one is what Start uses by default.
func Engines() []string {
	var all []string
	for _, g := range engines {
		all = append(all, g.version)
	}
	return all
}

// versionVariable names the default containerd of a whole test run, where the last of Engines is not meant.
const versionVariable = "FOREFEND_TEST_CONTAINERD"

// engineOf looks a version up; "" means the default.
func engineOf(version string) (engine, error) {
	if version == "" {
		version = os.Getenv(versionVariable)
	}
	if version == "" {
		return engines[len(engines)-1], nil
	}
	for _, g := range engines {
		if g.version == version {
			return g, nil
		}
	}
	return engine{}, fmt.Errorf("no containerd %q: have %s", version, strings.Join(Engines(), ", "))
}

// CRITable names a table of the CRI plugin's runtime settings in the configuration of a containerd version (""
// means the default), for WithContainerdConfig: CRITable("1.7", "containerd.runtimes.forefend").
func CRITable(version, sub string) string {
	g, err := engineOf(version)
	if err != nil {
		panic(err) // a typing error in a test
	}
	name := "plugins.'" + g.cri + "'"
	if sub != "" {
		name += "." + sub
	}
	return "[" + name + "]"
}

// unused lists the plugins that a containerd of this version is to leave out for a quick start: names it does not know
// do no harm.
func (g engine) unused(o options) []string {
	off := slices.Clone(unusedPlugins)
	if !o.cri {
		off = append(off, criPlugins...)
	}
	if !o.restarts {
		off = append(off, restartPlugins...)
	}
	return off
}

// config is the configuration of a containerd of this version. dir and address are the environment's.
func (g engine) config(dir, address string, o options) string {
	var b strings.Builder
	table := func(name string, lines ...string) {
		fmt.Fprintf(&b, "[%s]\n  %s\n", name, strings.Join(lines, "\n  "))
	}
	quoted := func(key string, path ...string) string {
		return key + " = " + strconv.Quote(filepath.Join(path...))
	}
	fmt.Fprintf(&b, "version = %d\n%s\n%s\ndisabled_plugins = [\"%s\"]\n", g.schema, quoted("root", dir, "root"),
		quoted("state", dir, "state"), strings.Join(g.unused(o), `", "`))
	table("grpc", quoted("address", address))
	table("plugins.'io.containerd.internal.v1.opt'", quoted("path", dir, "opt"))
	if g.socketDir {
		table("plugins.'io.containerd.shim.v1.manager'", quoted("socket_dir", dir, "s"))
	}
	if o.restarts {
		for _, name := range restartPlugins {
			table("plugins.'"+name+"'", `interval = "1s"`)
		}
	}
	if o.cri {
		g.criTables(dir, table)
	}
	return b.String()
}

// binary is the path of a program: the engine's own if it has one, else ours.
func (e *Env) binary(name string) string {
	if own := filepath.Join(e.EngineDir(), name); exists(own) {
		return own
	}
	return filepath.Join(e.BinDir, name)
}

// EngineDir holds the binaries of this environment's containerd: containerd, ctr and the stock shim. It is BinDir
// unless WithContainerd chose another version.
func (e *Env) EngineDir() string { return filepath.Join(e.BinDir, e.engine.dir) }

// path is where programs of this environment are looked up.
func (e *Env) path() string {
	return strings.Join([]string{e.EngineDir(), e.BinDir, os.Getenv("PATH")}, string(os.PathListSeparator))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
