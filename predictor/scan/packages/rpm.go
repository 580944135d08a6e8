package packages

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	rpmdb "github.com/erikvarga/go-rpmdb/pkg"
	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/extractor/filesystem/os/osrelease"
	rpmmeta "github.com/google/osv-scalibr/extractor/filesystem/os/rpm/metadata"
	"github.com/google/osv-scalibr/purl"

	"forefend.dev/forefend/predictor/scan/packages/rpmfile"
	"forefend.dev/forefend/runtime/rootfs"
)

// rpmDatabases are where distributions keep them, by format: SQLite, ndb, Berkeley DB.
var rpmDatabases = []string{
	"/usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/Packages.db", "/usr/lib/sysimage/rpm/Packages",
	"/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages.db", "/var/lib/rpm/Packages", "/usr/share/rpm/rpmdb.sqlite",
}

// rpm lists the packages of the first database there is: the others are links to it, or left behind.
func (c *collector) rpm() {
	for _, name := range rpmDatabases {
		list, err := rpmList(c.tree, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		c.note(err)
		release, err := osrelease.GetOSRelease(treeFS{c.tree})
		c.note(err)
		for _, p := range list {
			if p.Name == "gpg-pubkey" || len(c.found) >= maxPackages {
				continue // a key, which rpm keeps as a package
			}
			c.found = append(c.found, convert(rpmPackage(p, release), name, byRpm))
		}
		return
	}
}

// rpmList reads a database through the descriptor that the tree gave: the path may mean something else outside.
func rpmList(tree rootfs.Tree, name string) ([]*rpmdb.PackageInfo, error) {
	rpmfile.Register()
	f, _, err := tree.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > 4*maxDatabase {
		return nil, fmt.Errorf("%s: %d bytes are more than a list of packages has", name, info.Size())
	}
	db, err := rpmdb.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer db.Close()
	list, err := db.ListPackages()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

// rpmPackage makes scalibr's package of rpm's, so that the ecosystem is found by scalibr's rules.
func rpmPackage(p *rpmdb.PackageInfo, release map[string]string) *extractor.Package {
	version := p.Version + "-" + p.Release
	if n := p.EpochNum(); n > 0 {
		version = fmt.Sprintf("%d:%s", n, version)
	}
	return &extractor.Package{
		Name: p.Name, Version: version, PURLType: purl.TypeRPM,
		Metadata: &rpmmeta.Metadata{
			PackageName: p.Name, SourceRPM: p.SourceRpm, Epoch: p.EpochNum(), Architecture: p.Arch, Vendor: p.Vendor,
			OSName: release["NAME"], OSPrettyName: release["PRETTY_NAME"], OSID: release["ID"],
			OSVersionID: release["VERSION_ID"], OSCPEName: strings.Trim(release["CPE_NAME"], `"`),
		},
	}
}
