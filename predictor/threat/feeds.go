package threat

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/runtime/stamps"
)

// Options say where feeds are and how they are read.
type Options struct {
	Dirs     []string      // each file in them is a feed, ".gz" unpacked, or attack patterns, ".toml"; directories below are not read
	HalfLife time.Duration // of the confidence; 0: it does not fade
	Interval time.Duration // between two looks at the directories; 0: 10 s

	Techniques []Technique // built in
	// ParseTechniques reads attack patterns; nil: ".toml" files are not read. This package knows no TOML.
	ParseTechniques func(file string, data []byte) ([]Technique, error)
	// Report is told what happened at each reload that changed something; nil: nobody is.
	Report func(Status)
}

// maxPatternFile bounds a file of attack patterns.
const maxPatternFile = 1 << 20

// Status is what a reload found.
type Status struct {
	Loaded   time.Time     `json:"loaded"` // when the set in use was made
	Took     time.Duration `json:"took"`
	Feeds    []Feed        `json:"feeds"`
	Prefixes int           `json:"prefixes"`
	Names    int           `json:"names"`
	// Techniques is how many attack patterns there are, the built-in ones included.
	Techniques int       `json:"techniques"`
	Problems   []Problem `json:"problems,omitempty"`
}

// Feeds keeps a Set and Patterns up to date with the files in its directories. Its methods may be called from any
// goroutine; Set and Patterns never wait.
type Feeds struct {
	options  Options
	set      atomic.Pointer[Set]
	patterns atomic.Pointer[Patterns]
	status   atomic.Pointer[Status]

	mu         sync.Mutex // guards what follows; one reload at a time
	stamps     map[string]stamps.Stamp
	techniques map[string][]Technique // by file
	failed     []Problem
}

// NewFeeds returns feeds that hold nothing but the built-in patterns until the first Reload.
func NewFeeds(o Options) *Feeds {
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	f := &Feeds{options: o, stamps: map[string]stamps.Stamp{}, techniques: map[string][]Technique{}}
	empty, _ := NewBuilder(time.Time{}, o.HalfLife, nil).Set()
	f.set.Store(empty)
	patterns, problems := NewPatterns(o.Techniques)
	f.patterns.Store(patterns)
	f.status.Store(&Status{Techniques: patterns.Len(), Problems: problems})
	return f
}

// Set returns the indicators in use.
func (f *Feeds) Set() *Set { return f.set.Load() }

// Patterns returns the attack patterns in use.
func (f *Feeds) Patterns() *Patterns { return f.patterns.Load() }

// Status returns what the last reload found.
func (f *Feeds) Status() Status { return *f.status.Load() }

// Run looks at the directories until ctx ends.
func (f *Feeds) Run(ctx context.Context) error {
	tick := time.NewTicker(f.options.Interval)
	defer tick.Stop()
	for {
		if f.Reload(time.Now()) && f.options.Report != nil {
			f.options.Report(f.Status())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Reload reads the files that changed since the last time and replaces set and patterns as a whole. A file that cannot be
// used keeps what it said before, and is a problem until it changes again. It returns whether anything changed.
func (f *Feeds) Reload(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	start := time.Now()
	seen, problems := f.look()
	if f.status.Load().Loaded.Equal(time.Time{}) || !maps.EqualFunc(seen, f.stamps, stamps.Stamp.Same) || !slices.Equal(problems, f.failed) {
		f.failed = problems
		f.load(now, start, seen, slices.Clone(problems))
		return true
	}
	return false
}

func (f *Feeds) load(now, start time.Time, seen map[string]stamps.Stamp, problems []Problem) {
	b := NewBuilder(now, f.options.HalfLife, f.set.Load())
	techniques := map[string][]Technique{}
	earlier := f.Status().Problems
	for _, file := range slices.Sorted(maps.Keys(seen)) {
		old, known := f.stamps[file]
		unchanged := known && old.Same(seen[file])
		if strings.HasSuffix(file, ".toml") {
			list, kept := f.techniques[file]
			if !unchanged || !kept {
				fresh, err := f.readTechniques(file)
				if err == nil {
					list = fresh
				} else {
					problems = append(problems, Problem{File: file, Message: err.Error(), Fatal: true})
				}
			}
			techniques[file] = list
			continue
		}
		if unchanged && b.Keep(file) {
			problems = append(problems, of(earlier, file)...)
			continue
		}
		if !readFile(b, file, seen[file].Mtime) {
			b.Keep(file)
		}
	}
	set, wrong := b.Set()
	var all []Technique
	all = append(all, f.options.Techniques...)
	for _, file := range slices.Sorted(maps.Keys(techniques)) {
		all = append(all, techniques[file]...)
	}
	patterns, bad := NewPatterns(all)
	problems = slices.Concat(problems, wrong, bad)
	f.set.Store(set)
	f.patterns.Store(patterns)
	f.stamps, f.techniques = seen, techniques
	s := &Status{Loaded: now, Took: time.Since(start), Feeds: set.Feeds(), Techniques: patterns.Len(), Problems: problems}
	s.Prefixes, s.Names = set.Size()
	f.status.Store(s)
}

// of lists what was wrong with a file that is not read again.
func of(problems []Problem, file string) []Problem {
	var out []Problem
	for _, p := range problems {
		if p.File == file {
			out = append(out, p)
		}
	}
	return out
}

// look lists the files of all directories. A directory that is missing holds nothing.
func (f *Feeds) look() (map[string]stamps.Stamp, []Problem) {
	all := map[string]stamps.Stamp{}
	var problems []Problem
	for _, dir := range f.options.Dirs {
		found, err := stamps.Look(dir, func(name string) bool {
			return wanted(name) && (!strings.HasSuffix(name, ".toml") || f.options.ParseTechniques != nil)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, Problem{File: dir, Message: err.Error(), Fatal: true})
		}
		maps.Copy(all, found)
	}
	return all, problems
}

// wanted leaves out what editors and downloads leave beside a file, and what describes feeds.
func wanted(name string) bool {
	for _, end := range []string{"~", ".tmp", ".part", ".new", ".swp", ".md", ".sha256"} {
		if strings.HasSuffix(name, end) {
			return false
		}
	}
	return !strings.HasPrefix(name, ".")
}

func readFile(b *Builder, file string, at time.Time) bool {
	r, err := os.Open(file)
	if err != nil {
		b.problems = append(b.problems, Problem{File: file, Message: err.Error(), Fatal: true})
		return false
	}
	defer r.Close()
	var in io.Reader = r
	if strings.HasSuffix(file, ".gz") {
		z, err := gzip.NewReader(r)
		if err != nil {
			b.problems = append(b.problems, Problem{File: file, Message: err.Error(), Fatal: true})
			return false
		}
		in = z
	}
	return b.Read(file, at, in)
}

func (f *Feeds) readTechniques(file string) ([]Technique, error) {
	r, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxPatternFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPatternFile {
		return nil, fmt.Errorf("has more than %d MiB", maxPatternFile>>20)
	}
	return f.options.ParseTechniques(file, data)
}
