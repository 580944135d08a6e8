package scan

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/object"
)

// Bounds of one scan.
const (
	maxObjects  = 4000
	maxPrograms = 512
	maxUnknown  = 200
)

// loaded is an object that some programs load.
type loaded struct {
	path     string
	obj      *object.Object
	programs []*program
	reached  []bool
	imported []bool // imports that reached functions use
}

// program is one process image: an executable and what it loads.
type program struct {
	main    *loaded
	objects []*loaded
	has     map[*loaded]bool
	wanted  map[string]bool // imports that reached code uses
	args    []string
	via     string
	acted   map[string]bool // what triggers were already followed
	scripts bool            // what it executes is known from its scripts
}

// job is a function that was reached and not yet followed.
type job struct {
	at *loaded
	fn int32
}

// world is everything that may run.
type world struct {
	ctx   context.Context // of the scan; the type lives no longer
	view  *view
	libs  *libraries
	store *store
	req   Request
	dirs  []string // PATH
	out   *evidence.Scan

	objects  map[string]*loaded // by resolved path; nil: cannot be analysed
	programs []*program
	started  map[string]bool // programs and scripts, so that each is followed once
	work     []job
	calls    map[string]bool
	listed   map[string]bool // paths in out.Programs
	noted    map[string]bool // what is in out.Unknown
	cached   int
}

// unknown notes what could not be followed.
func (w *world) unknown(kind, where, why string) {
	if key := kind + where + why; !w.noted[key] && len(w.out.Unknown) < maxUnknown {
		w.noted[key] = true
		w.out.Unknown = append(w.out.Unknown, evidence.Unknown{Kind: kind, Where: where, Why: why})
	}
}

// lists a file whose code may run.
func (w *world) list(file, kind, via string) {
	if !w.listed[file] {
		w.listed[file] = true
		w.out.Programs = append(w.out.Programs, evidence.Program{Path: file, Kind: kind, Via: via})
	}
}

// load analyses the given files, in parallel, and remembers them.
func (w *world) load(files []string) {
	var todo []string
	for _, f := range files {
		if _, known := w.objects[f]; !known && !slices.Contains(todo, f) {
			todo = append(todo, f)
		}
	}
	if len(todo) == 0 {
		return
	}
	results := make([]*object.Object, len(todo))
	errs := make([]error, len(todo))
	hits := make([]bool, len(todo))
	var wg sync.WaitGroup
	next := make(chan int, len(todo))
	for i := range todo {
		next <- i
	}
	close(next)
	for range min(len(todo), parallel) {
		wg.Go(func() {
			for i := range next {
				if w.ctx.Err() != nil {
					errs[i] = context.Cause(w.ctx)
					continue
				}
				results[i], hits[i], errs[i] = w.store.object(w.view, todo[i])
			}
		})
	}
	wg.Wait()
	for i, f := range todo {
		w.objects[f] = nil
		switch {
		case errs[i] != nil && isForeign(errs[i]):
		case errs[i] != nil:
			w.unknown(evidence.UnknownFile, f, errs[i].Error())
		case len(w.objects) > maxObjects:
			w.unknown(evidence.UnknownFile, f, fmt.Sprintf("more than %d objects", maxObjects))
		default:
			o := results[i]
			w.objects[f] = &loaded{path: f, obj: o, reached: make([]bool, len(o.Starts)), imported: make([]bool, len(o.Imports))}
			if hits[i] {
				w.cached++
			}
		}
	}
}

// parallel is how many files are analysed at the same time; each uses the other processors too.
const parallel = 2

// start adds the program in an ELF file.
func (w *world) start(file string, args []string, via string) *program {
	w.load([]string{file})
	at := w.objects[file]
	if at == nil {
		return nil
	}
	if w.out.Arch == "" {
		w.out.Arch = at.obj.Arch
	}
	if len(w.programs) >= maxPrograms {
		w.unknown(evidence.UnknownProgram, file, fmt.Sprintf("more than %d programs", maxPrograms))
		return nil
	}
	p := &program{main: at, has: map[*loaded]bool{}, wanted: map[string]bool{}, args: args, via: via, acted: map[string]bool{}}
	w.programs = append(w.programs, p)
	kind := "elf"
	if at.obj.Go {
		kind = "go"
	}
	w.list(file, kind, via)
	files := []string{file}
	if at.obj.Interp != "" {
		if resolved, ok := w.view.file(at.obj.Interp); ok {
			files = append(files, resolved)
		} else {
			w.unknown(evidence.UnknownFile, at.obj.Interp, "the dynamic linker of "+file+" is not there")
		}
	}
	for _, lib := range strings.FieldsFunc(variable(w.req.Env, "LD_PRELOAD"), func(r rune) bool { return r == ':' || r == ' ' }) {
		files = append(files, w.libs.find(lib, file, at.obj, path.Dir(file), at.obj.Rpath)...)
	}
	w.join(p, files, "library", false)
	return p
}

// join loads files and all they need into a program. Of plugins every exported function counts as called: who loads
// them looks functions up by name.
func (w *world) join(p *program, files []string, kind string, plugin bool) {
	first := true
	for len(files) > 0 {
		w.load(files)
		var needed []string
		for _, f := range files {
			at := w.objects[f]
			if at == nil || p.main.obj.Arch != at.obj.Arch || p.has[at] {
				continue
			}
			w.add(p, at)
			if f != p.main.path {
				w.list(f, kind, "loaded by "+p.main.path)
			}
			if plugin && first {
				for _, fns := range at.obj.Exports {
					for _, fn := range fns {
						w.reach(at, fn)
					}
				}
			}
			for _, name := range at.obj.Needed {
				found := w.libs.find(name, f, at.obj, path.Dir(p.main.path), p.main.obj.Rpath)
				if len(found) == 0 {
					w.unknown(evidence.UnknownFile, f, "needs "+name+", which is not there")
				}
				needed = append(needed, found...)
			}
		}
		files, kind, first = needed, "library", false
	}
}

// add puts an object into a program: its initialisers and tables of functions are reached, and it may define what is
// wanted already.
func (w *world) add(p *program, at *loaded) {
	p.has[at] = true
	p.objects = append(p.objects, at)
	at.programs = append(at.programs, p)
	for _, e := range at.obj.Roots {
		w.edge(at, e)
	}
	if at.obj.Go || at == p.main && at.obj.Static {
		w.reachEntry(at)
	}
	for name := range p.wanted {
		for _, fn := range at.obj.Exports[name] {
			w.reach(at, fn)
		}
	}
	for i, used := range at.imported { // reached on behalf of other programs
		if used {
			w.want(p, at.obj.Imports[i])
		}
	}
}

// reachEntry follows a Go program, of which the linker kept only what may be reached: all.
func (w *world) reachEntry(at *loaded) {
	if at.obj.Go {
		for fn := range at.reached {
			w.reach(at, int32(fn))
		}
	}
}

func (w *world) reach(at *loaded, fn int32) {
	if int(fn) < len(at.reached) && !at.reached[fn] {
		at.reached[fn] = true
		w.work = append(w.work, job{at, fn})
	}
}

func (w *world) edge(at *loaded, e int32) {
	switch {
	case e >= 0:
		w.reach(at, e)
	case int(^e) < len(at.imported) && !at.imported[^e]:
		at.imported[^e] = true
		for _, p := range at.programs {
			w.want(p, at.obj.Imports[^e])
		}
	}
}

// want resolves an import in every object of a program: which of several definitions wins does not matter, all count.
func (w *world) want(p *program, name string) {
	if p.wanted[name] {
		return
	}
	p.wanted[name] = true
	for _, at := range p.objects {
		for _, fn := range at.obj.Exports[name] {
			w.reach(at, fn)
		}
	}
}

// drain follows everything reached.
func (w *world) drain() {
	for len(w.work) > 0 {
		j := w.work[len(w.work)-1]
		w.work = w.work[:len(w.work)-1]
		o := j.at.obj
		for _, e := range o.Edges[o.First[j.fn]:o.First[j.fn+1]] {
			w.edge(j.at, e)
		}
		for _, n := range o.Numbers[j.fn] {
			w.call(j.at, int(n))
		}
		for _, site := range o.Unknown[j.fn] {
			w.unknown(evidence.UnknownCall, fmt.Sprintf("%s+%#x", j.at.path, site.Offset), site.Why)
		}
	}
}

func (w *world) call(at *loaded, n int) {
	if name, ok := numberName(at.obj.Arch, n); ok {
		w.calls[name] = true
	}
}
