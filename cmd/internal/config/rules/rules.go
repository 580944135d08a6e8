// Package rules reads directories of egress rules, compiles them for netns/pdp, runs the tests that stand beside rules,
// follows changes, and holds what is in force. It is apart from the reader of config.toml because shims read that and have no use for CEL.
//
// Its functions may be called from any goroutine.
package rules

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
)

// Bounds of a directory.
const (
	maxFiles = 256
	maxBytes = 8 << 20 // of all files together
)

// Directory is rules as they were read.
type Directory struct {
	Path  string // a directory, or one file
	Files []*config.RuleFile
	Set   *pdp.Set // nil: there are problems

	of string // what is added to sources
}

// Load reads and compiles the rules of a directory, or of one file. What is wrong in files comes as config.Problems, all of it,
// together with what could be read; any other error is about the directory.
func Load(path string, o pdp.Options) (*Directory, error) {
	files, err := Read(path)
	if err != nil {
		return nil, err
	}
	return Compile(path, files, 0, o)
}

// Read returns the rule files of a directory, or the one file that path is, by their paths.
func Read(path string) (map[string][]byte, error) {
	names, err := list(path)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte, len(names))
	left := int64(maxBytes)
	for _, name := range names {
		if files[name], err = read(name, left); err != nil {
			return nil, err
		}
		left -= int64(len(files[name]))
	}
	return files, nil
}

// Compile compiles rule files that were read from path, or came from elsewhere. number is that of their version in the store, which is
// added to the sources of rules ("site.toml:12 of version 7"); 0: they are not in the store, and are told from others by their digest. What
// is wrong comes as config.Problems, all of it, together with what could be read.
func Compile(path string, files map[string][]byte, number uint64, o pdp.Options) (*Directory, error) {
	d := &Directory{Path: path}
	switch {
	case number > 0:
		o.Version = fmt.Sprint(number)
		d.of = " of version " + o.Version
	case len(files) > 0:
		o.Version = Digest(files)
	}
	var problems config.Problems
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file, wrong := config.ParseRules(name, files[name])
		if file != nil {
			d.Files = append(d.Files, file)
		}
		problems = append(problems, wrong...)
	}
	set, wrong := compile(d, o)
	problems = append(problems, wrong...)
	if len(problems) > 0 {
		return d, problems
	}
	d.Set = set
	return d, nil
}

// Digest tells files from others, by their names without directory and what is in them.
func Digest(files map[string][]byte) string {
	byName := func(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) }
	sum := sha256.New()
	for _, path := range slices.SortedFunc(maps.Keys(files), byName) {
		name := filepath.Base(path)
		fmt.Fprintf(sum, "%d %s %d ", len(name), name, len(files[path])) // a hash takes everything
		sum.Write(files[path])
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// Rules is how many rules the files have.
func (d *Directory) Rules() (n int) {
	for _, f := range d.Files {
		n += len(f.Rules)
	}
	return n
}

// Tests is how many tests the files have.
func (d *Directory) Tests() (n int) {
	for _, f := range d.Files {
		n += len(f.Tests)
	}
	return n
}

// list returns the rule files of a directory in order, or the one file that path is.
func list(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("egress rules: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("egress rules: %w", err)
	}
	var names []string
	for _, e := range entries {
		if Wanted(e.Name()) {
			names = append(names, filepath.Join(path, e.Name()))
		}
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("egress rules: %s has %d rule files, the most is %d", path, len(names), maxFiles)
	}
	return names, nil
}

// Wanted tells whether a file of a directory is a rule file, by its name: what editors leave beside one is not.
func Wanted(name string) bool {
	return strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".")
}

func read(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("egress rules: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("egress rules: %s is not a regular file: %w", name, fs.ErrInvalid), err)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("egress rules: %w", err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("egress rules: with %s the files have more than %d MiB together", name, maxBytes>>20)
	}
	return data, nil
}

// compile makes a set of all files' rules.
func compile(d *Directory, o pdp.Options) (*pdp.Set, config.Problems) {
	var written []*config.Rule
	var rules []pdp.Rule
	for _, f := range d.Files {
		for i := range f.Rules {
			r := &f.Rules[i]
			written = append(written, r)
			rules = append(rules, pdp.Rule{Name: r.Name, Source: r.Source + d.of, When: r.When, Profile: profile(r, o.Default)})
		}
	}
	set, wrong := pdp.Compile(rules, o)
	var problems config.Problems
	for _, p := range wrong {
		if p.Rule < 0 || p.Rule >= len(written) { // of the latter there is one: a rule has the name of what the site adds
			problems = append(problems, config.Problem{File: d.Path, Message: p.Message})
			continue
		}
		if r := written[p.Rule]; r.Name != "" && r.When != "" { // else that is reported
			problems = append(problems, r.Problem(p.Offset, p.Message))
		}
	}
	return set, problems
}

// profile fills in what a rule does not say of encryption: the default's level holds, and where that denies the usual one.
func profile(r *config.Rule, byDefault flow.Profile) flow.Profile {
	p := r.Profile
	if r.Unsaid && !p.Deny {
		if p.Encryption = byDefault.Encryption; byDefault.Deny {
			p.Encryption = flow.Standard
		}
	}
	return p
}

// Result is what became of one test.
type Result struct {
	Name     string        `json:"name"`
	Source   string        `json:"source"`
	OK       bool          `json:"ok"`
	Wrong    []string      `json:"wrong,omitempty"` // each difference: "encryption: want strong, got none"
	Decision flow.Decision `json:"decision"`
}

// Test runs the tests of all files. now is the time of tests that have none of their own.
func (d *Directory) Test(now time.Time) []Result {
	results, _ := d.TestWithin(context.Background(), now) // which has no end
	return results
}

// TestWithin is Test for rules of others: it gives up with ctx's error when ctx ends.
func (d *Directory) TestWithin(ctx context.Context, now time.Time) ([]Result, error) {
	var results []Result
	for _, f := range d.Files {
		for _, t := range f.Tests {
			if err := ctx.Err(); err != nil {
				return results, fmt.Errorf("after %d of %d tests: %w", len(results), d.Tests(), err)
			}
			at := t.Now
			if at.IsZero() {
				at = now
			}
			got := d.Set.Decide(&t.Context, pdp.Moment{Now: at, Load: t.Load})
			wrong := differences(t.Want, got)
			results = append(results, Result{Name: t.Name, Source: t.Source, OK: len(wrong) == 0, Wrong: wrong, Decision: got})
		}
	}
	return results, nil
}

func differences(w config.Want, d flow.Decision) (wrong []string) {
	differ := func(what string, want, got any) {
		wrong = append(wrong, fmt.Sprintf("%s: want %v, got %v", what, want, got))
	}
	p := d.Profile
	if p.Deny != w.Deny {
		differ("deny", w.Deny, p.Deny)
	}
	if w.Encryption != nil && *w.Encryption != p.Encryption {
		differ("encryption", *w.Encryption, p.Encryption)
	}
	if w.Dedicated != nil && *w.Dedicated != p.Dedicated {
		differ("dedicated", *w.Dedicated, p.Dedicated)
	}
	if w.Endpoint != nil && *w.Endpoint != p.Endpoint {
		differ("endpoint", fmt.Sprintf("%q", *w.Endpoint), fmt.Sprintf("%q", p.Endpoint))
	}
	if w.QoS != nil && *w.QoS != p.QoS {
		differ("qos", fmt.Sprintf("%q", *w.QoS), fmt.Sprintf("%q", p.QoS))
	}
	if r := w.Rate; r != nil && !slices.ContainsFunc(p.Rates, func(got flow.Rate) bool {
		got.Rule = ""
		return got == *r
	}) {
		var got []string
		for _, r := range p.Rates {
			got = append(got, pdp.RateText(r))
		}
		differ("rate", pdp.RateText(*r), "["+strings.Join(got, ", ")+"]")
	}
	if w.Rules != nil {
		var names []string
		for _, m := range d.Matches {
			names = append(names, m.Rule)
		}
		slices.Sort(names)
		want := slices.Clone(w.Rules)
		slices.Sort(want)
		if names = slices.Compact(names); !slices.Equal(names, want) {
			differ("rules", want, names)
		}
	}
	return wrong
}
