package packages

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/advisory"
	"forefend.dev/forefend/runtime/rootfs"
)

// maxVulnerabilities bounds what is reported of one image: reachable ones first, worst first.
const maxVulnerabilities = 3000

// Options are what Scan needs besides the root filesystem.
type Options struct {
	Cwd   string          // where the command starts
	Index *advisory.Index // nil: packages are counted, no vulnerabilities are looked for
	// Exploited estimates the probability that a vulnerability is or will be exploited, 0 to 1; nil: not estimated.
	Exploited func(evidence.Vulnerability) float64
}

// Scan fills the fields Packages and Vulnerabilities of s from the tree, using the Programs that s has already. It returns
// an error with what it could not read; what it could read is in s.
func Scan(ctx context.Context, tree rootfs.Tree, o Options, s *evidence.Scan) error {
	var programs []string
	for _, p := range s.Programs {
		if p.Kind == "go" || p.Kind == "elf" {
			programs = append(programs, p.Path)
		}
	}
	list, err := Collect(ctx, tree, programs, o.Cwd)
	s.Packages = len(list)
	if o.Index == nil {
		return err
	}
	r := newReach(owners{tree: tree}, s.Programs, o.Cwd)
	s.Vulnerabilities = match(list, o, r)
	if n := len(s.Vulnerabilities); n > maxVulnerabilities {
		s.Errors = append(s.Errors, fmt.Sprintf("packages: %d vulnerabilities, the first %d are listed", n, maxVulnerabilities))
		s.Vulnerabilities = s.Vulnerabilities[:maxVulnerabilities]
	}
	return err
}

// subject is what advisories are about: all packages made from one source are affected together.
type subject struct{ ecosystem, name, version string }

func match(list []Package, o Options, r *reach) []evidence.Vulnerability {
	groups := make(map[subject][]Package)
	for _, p := range list {
		if p.Ecosystem != "" {
			k := subject{p.Ecosystem, p.Source, p.SourceVer}
			groups[k] = append(groups[k], p)
		}
	}
	var all []evidence.Vulnerability
	for k, members := range groups {
		found := o.Index.Find(k.ecosystem, k.name, k.version)
		if len(found) == 0 {
			continue
		}
		via := ""
		for _, p := range members {
			if via = r.via(p); via != "" {
				break
			}
		}
		for _, v := range found {
			v.Package, v.Reachable, v.Via = k.name, via != "", via
			if o.Exploited != nil {
				v.Exploited = o.Exploited(v)
			}
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b evidence.Vulnerability) int {
		return cmp.Or(cmp.Compare(truth(b.Reachable), truth(a.Reachable)), cmp.Compare(b.Severity, a.Severity),
			strings.Compare(a.ID, b.ID), strings.Compare(a.Package, b.Package), strings.Compare(a.Version, b.Version))
	})
	return all
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
