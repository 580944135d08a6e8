package packages

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	cpb "github.com/google/osv-scalibr/binary/proto/config_go_proto"
	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/language/golang/gobinary"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/packagejson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/wheelegg"
	"github.com/google/osv-scalibr/extractor/filesystem/os/apk"
	apkmeta "github.com/google/osv-scalibr/extractor/filesystem/os/apk/metadata"
	"github.com/google/osv-scalibr/extractor/filesystem/os/dpkg"
	dpkgmeta "github.com/google/osv-scalibr/extractor/filesystem/os/dpkg/metadata"
	"github.com/google/osv-scalibr/log"

	"forefend.dev/forefend/runtime/rootfs"
)

// maxPackages bounds what is listed of one image.
const maxPackages = 100_000

const goName = gobinary.Name

// Package is one that is installed.
type Package struct {
	Name      string // as its package manager says it
	Version   string
	Ecosystem string // of OSV, with the release: Debian:12; empty when OSV has none
	Source    string // the name that advisories use: of a distribution often the source package's
	SourceVer string // its version
	From      string // the file that says so
	owner     owner
}

// owner says how the package's files are found.
type owner int

const (
	ownsNothing owner = iota
	byDpkg
	byDistroless
	byApk
	byRpm
	byBinary // From is the program itself
	byPython
	byNode
)

// Collect lists the packages of a root filesystem. programs are paths that may be Go binaries, cwd where the command
// starts. What could be read is returned also with an error, which joins those of the parts.
func Collect(ctx context.Context, tree rootfs.Tree, programs []string, cwd string) ([]Package, error) {
	log.SetLogger(quiet{})
	c := &collector{ctx: ctx, tree: tree}
	c.dpkg()
	c.apk()
	c.rpm()
	found := search(ctx, tree, cwd)
	if len(c.found) == 0 { // an image without a package manager: its programs are all there is
		programs = append(slices.Clone(programs), found.programs...)
	} else {
		programs = append(slices.Clone(programs), found.local...)
	}
	c.golang(programs)
	c.language(wheelegg.New, found.python, byPython)
	c.language(packagejson.New, found.node, byNode)
	return c.found, errors.Join(c.errs...)
}

type collector struct {
	ctx   context.Context
	tree  rootfs.Tree
	found []Package
	errs  []error
}

func (c *collector) note(err error) {
	if err != nil && len(c.errs) < 20 {
		c.errs = append(c.errs, err)
	}
}

// run adds what an extractor finds in a file.
func (c *collector) run(with filesystem.Extractor, name string, how owner) {
	if c.ctx.Err() != nil || len(c.found) >= maxPackages {
		return
	}
	list, err := extract(c.ctx, c.tree, with, name)
	c.note(err)
	for _, p := range list {
		if p == nil || p.Name == "" || p.Version == "" || len(c.found) >= maxPackages {
			continue
		}
		c.found = append(c.found, convert(p, name, how))
	}
}

func convert(p *extractor.Package, from string, how owner) Package {
	q := Package{Name: p.Name, Version: p.Version, Source: p.Name, SourceVer: p.Version, From: from, owner: how}
	if e := p.Ecosystem(); !e.IsEmpty() {
		q.Ecosystem = e.String()
	}
	switch m := p.Metadata.(type) {
	case *dpkgmeta.Metadata:
		if m.SourceName != "" {
			q.Source = m.SourceName
		}
		if m.SourceVersion != "" {
			q.SourceVer = m.SourceVersion
		}
	case *apkmeta.Metadata:
		if m.OriginName != "" {
			q.Source = m.OriginName
		}
	}
	if how == byBinary && p.Name == "go" {
		q.Source = "stdlib" // as the Go vulnerability database has it
	}
	return q
}

// makeExtractor is how scalibr's extractors are made.
type makeExtractor func(*cpb.PluginConfig) (filesystem.Extractor, error)

// language runs an extractor over files, each of which describes one package.
func (c *collector) language(make makeExtractor, files []string, how owner) {
	if len(files) == 0 {
		return
	}
	e, err := make(&cpb.PluginConfig{})
	if err != nil {
		c.note(err)
		return
	}
	for _, name := range files {
		c.run(e, name, how)
	}
}

const (
	dpkgStatus  = "/var/lib/dpkg/status"
	dpkgStatusD = "/var/lib/dpkg/status.d"
)

var apkInstalled = []string{"/lib/apk/db/installed", "/usr/lib/apk/db/installed"}

func (c *collector) dpkg() {
	c.language(dpkg.New, []string{dpkgStatus}, byDpkg)
	list, dir, err := c.tree.List(dpkgStatusD)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.note(err)
		}
		return
	}
	var files []string
	for _, e := range list {
		if e.Type.IsRegular() && !strings.HasSuffix(e.Name, ".md5sums") {
			files = append(files, path.Join(dir, e.Name))
		}
	}
	c.language(dpkg.New, files, byDistroless)
}

func (c *collector) apk() {
	seen := "" // /lib may be a link to /usr/lib
	for _, name := range apkInstalled {
		resolved, _, _, err := c.tree.Lookup(name)
		if err != nil || resolved == seen {
			continue
		}
		seen = resolved
		c.language(apk.New, []string{name}, byApk)
	}
}

// golang reads the build information of programs; that of what is no Go program is not an error.
func (c *collector) golang(programs []string) {
	e, err := gobinary.New(&cpb.PluginConfig{})
	if err != nil {
		c.note(err)
		return
	}
	slices.Sort(programs)
	for _, name := range slices.Compact(programs) {
		if !strings.HasPrefix(name, "/") || !isELF(c.tree, name) {
			continue
		}
		c.run(e, name, byBinary)
	}
}

// isELF looks at the first bytes.
func isELF(tree rootfs.Tree, name string) bool {
	f, _, err := tree.OpenFile(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	_, err = f.ReadAt(magic[:], 0)
	return err == nil && string(magic[:]) == "\x7fELF"
}

// quiet swallows the library's log: what matters is in its errors.
type quiet struct{}

func (quiet) Errorf(string, ...any) {}
func (quiet) Warnf(string, ...any)  {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Debugf(string, ...any) {}
func (quiet) Error(...any)          {}
func (quiet) Warn(...any)           {}
func (quiet) Info(...any)           {}
func (quiet) Debug(...any)          {}
