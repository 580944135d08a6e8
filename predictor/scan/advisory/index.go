package advisory

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
)

// maxMatches bounds the entries of one package that are looked at: the kernel has ten thousand.
const maxMatches = 1 << 15

// ErrDamaged: the file is no index, or not a whole one. Build it anew.
var ErrDamaged = errors.New("OSV index is damaged")

// Index answers which vulnerabilities a package version has.
type Index struct {
	data  []byte // mapped
	count int
	table []byte
}

// Cached opens the index of the OSV records at path that is kept in dir, and builds it if there is none of these very
// records yet. It removes the indexes of earlier ones.
func Cached(ctx context.Context, path, dir string) (*Index, error) {
	print, err := Fingerprint(path)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "osv-"+print)
	if x, err := Open(file); err == nil {
		return x, nil
	}
	f, err := os.CreateTemp(dir, ".osv-*")
	if err != nil {
		return nil, fmt.Errorf("OSV index: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := Build(ctx, path, f); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return nil, fmt.Errorf("OSV index: %w", err)
	}
	tidy(dir, file)
	return Open(file)
}

// abandoned is the age of an unfinished index whose builder was ended.
const abandoned = time.Hour

// tidy removes other records' indexes and unfinished ones. One that stays costs room only.
func tidy(dir, file string) {
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		info, err := e.Info()
		path := filepath.Join(dir, e.Name())
		switch {
		case err != nil || path == file:
		case strings.HasPrefix(e.Name(), "osv-"), strings.HasPrefix(e.Name(), ".osv-") && time.Since(info.ModTime()) > abandoned:
			_ = os.Remove(path)
		}
	}
}

// Remembered opens the index of the OSV records at path that Cached has built in dir; the error wraps fs.ErrNotExist when
// there is none of these very records.
func Remembered(path, dir string) (*Index, error) {
	print, err := Fingerprint(path)
	if err != nil {
		return nil, err
	}
	return Open(filepath.Join(dir, "osv-"+print))
}

// Open maps an index that Build has written. The error matches ErrDamaged when it is none.
func Open(file string) (*Index, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("OSV index: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("OSV index: %w", err)
	}
	if info.Size() < headerSize || info.Size() > 1<<40 {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, info.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("OSV index: map: %w", err)
	}
	x, err := parse(data)
	if err != nil {
		_ = unix.Munmap(data)
		return nil, err
	}
	return x, nil
}

func parse(data []byte) (*Index, error) {
	if len(data) < headerSize || string(data[:8]) != magic {
		return nil, fmt.Errorf("%w: no header", ErrDamaged)
	}
	count, at := binary.LittleEndian.Uint64(data[8:]), binary.LittleEndian.Uint64(data[16:])
	if count > maxEntries || at > uint64(len(data)) || uint64(len(data))-at != count*rowSize {
		return nil, fmt.Errorf("%w: table of %d entries at %d of %d bytes", ErrDamaged, count, at, len(data))
	}
	return &Index{data: data, count: int(count), table: data[at:]}, nil
}

// Close unmaps the index.
func (x *Index) Close() error { return unix.Munmap(x.data) }

// Len is the number of affected packages in it.
func (x *Index) Len() int { return x.count }

func (x *Index) row(i int) row {
	b := x.table[i*rowSize:]
	return row{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint32(b[16:])}
}

// Find returns the vulnerabilities of one package version, worst first, several names of one flaw as one. ecosystem is
// OSV's, with its suffix: Debian:12, Alpine:v3.20, PyPI. Reachable, Via and Exploited are left to the caller.
func (x *Index) Find(ecosystem, name, version string) []evidence.Vulnerability {
	eco, key, ok := key(ecosystem, name)
	if !ok {
		return nil
	}
	found := x.find(eco, key, version)
	if base, _, has := strings.Cut(eco, ":"); has { // records about all releases
		found = append(found, x.find(base, key, version)...)
	}
	for i := range found {
		found[i].Package, found[i].Version, found[i].Ecosystem = name, version, ecosystem
	}
	return merge(found)
}

func (x *Index) find(ecosystem, name, version string) []evidence.Vulnerability {
	h := hash(ecosystem, name)
	first := sort.Search(x.count, func(i int) bool { return x.row(i).hash >= h })
	var found []evidence.Vulnerability
	for i := first; i < min(x.count, first+maxMatches); i++ {
		r := x.row(i)
		if r.hash != h {
			break
		}
		if r.at > uint64(len(x.data)) || uint64(r.size) > uint64(len(x.data))-r.at {
			continue
		}
		var e entry
		if json.Unmarshal(x.data[r.at:r.at+uint64(r.size)], &e) != nil || e.Ecosystem != ecosystem || e.Name != name {
			continue
		}
		if fixed, yes := e.covers(version); yes {
			found = append(found, evidence.Vulnerability{
				ID: e.ID, Aliases: e.Aliases, Fixed: fixed, Severity: e.Score, Vector: e.Vector, CWE: e.CWE,
			})
		}
	}
	return found
}

// merge makes one of those that share a name: an advisory of a language's database and one of GitHub's about the same
// CVE. The worst stays and takes the others' names and what it lacks.
func merge(all []evidence.Vulnerability) []evidence.Vulnerability {
	slices.SortStableFunc(all, func(a, b evidence.Vulnerability) int {
		if a.Severity != b.Severity {
			if a.Severity > b.Severity {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	at := make(map[string]int) // name -> place in kept
	var kept []evidence.Vulnerability
	for _, v := range all {
		names := append([]string{v.ID}, v.Aliases...)
		place := -1
		for _, n := range names {
			if i, ok := at[n]; ok {
				place = i
				break
			}
		}
		if place < 0 {
			place = len(kept)
			v.Aliases = nil
			kept = append(kept, v)
		}
		k := &kept[place]
		for _, n := range names {
			at[n] = place
			if n != k.ID && !slices.Contains(k.Aliases, n) {
				k.Aliases = append(k.Aliases, n)
			}
		}
		if k.Fixed == "" {
			k.Fixed = v.Fixed
		}
		if len(k.CWE) == 0 {
			k.CWE = v.CWE
		}
		if k.Severity == v.Severity && k.Vector == "" {
			k.Vector = v.Vector
		}
	}
	return kept
}
