package admit

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxCompiled bounds what a Compiler remembers, at about 30 KiB each; a profile
// with more than maxRemembered names and conditions is not remembered.
const (
	maxCompiled   = 64
	maxRemembered = 4096
)

// Compiler remembers the newest compiled profiles: the containers of a node ask
// for few different ones, and compiling one takes as long as the rest of a
// decision. A nil Compiler compiles anew each time. It may be used from any goroutine.
type Compiler struct {
	mu   sync.Mutex
	by   map[[sha256.Size]byte]compiled // guarded by mu
	ring [maxCompiled][sha256.Size]byte // keys in the order of their arrival; guarded by mu
	next int                            // in ring; guarded by mu
}

// compiled returns the result of p.compileCalls(v), which depends on nothing else.
func (c *Compiler) compiled(p callPlan, v verdicts) (compiled, error) {
	if c == nil {
		return p.compileCalls(v)
	}
	key := fingerprint(p, v)
	c.mu.Lock()
	known, ok := c.by[key]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	fresh, err := p.compileCalls(v)
	if err != nil {
		return fresh, err
	}
	if entries(fresh.profile) > maxRemembered {
		return fresh, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = make(map[[sha256.Size]byte]compiled, maxCompiled)
	}
	if _, ok := c.by[key]; !ok { // else another goroutine was as fast
		delete(c.by, c.ring[c.next])
		c.ring[c.next], c.next = key, (c.next+1)%maxCompiled
		c.by[key] = fresh
	}
	return fresh, nil
}

// entries counts the names and conditions of a profile.
func entries(p specs.LinuxSeccomp) (n int) {
	for _, s := range p.Syscalls {
		n += 1 + len(s.Names) + len(s.Args)
	}
	return n
}

// fingerprint hashes all that a compilation depends on. Each part is preceded by
// its length, so that no two inputs are written alike.
func fingerprint(p callPlan, v verdicts) [sha256.Size]byte {
	w := writing(make([]byte, 0, 16<<10))
	w.flag(p.ours)
	w.flag(p.open)
	w.flag(p.foreign)
	w.number(uint64(p.fallback))
	w.profile(p.profile)
	w.number(uint64(len(v.native)))
	for _, verdict := range v.native {
		w = append(w, byte(verdict))
	}
	w.number(uint64(len(v.others)))
	for _, name := range slices.Sorted(maps.Keys(v.others)) {
		w.text(name)
		w.number(uint64(v.others[name]))
	}
	return sha256.Sum256(w)
}

// writing is the input of a fingerprint.
type writing []byte

func (w *writing) number(n uint64) { *w = binary.AppendUvarint(*w, n) }

func (w *writing) text(s string) {
	w.number(uint64(len(s)))
	*w = append(*w, s...)
}

func (w *writing) flag(b bool) {
	if b {
		w.number(1)
		return
	}
	w.number(0)
}

func (w *writing) errno(e *uint) {
	w.flag(e != nil)
	if e != nil {
		w.number(uint64(*e))
	}
}

func (w *writing) profile(p *specs.LinuxSeccomp) {
	w.text(string(p.DefaultAction))
	w.errno(p.DefaultErrnoRet)
	w.number(uint64(len(p.Architectures)))
	for _, a := range p.Architectures {
		w.text(string(a))
	}
	w.number(uint64(len(p.Flags)))
	for _, f := range p.Flags {
		w.text(string(f))
	}
	w.number(uint64(len(p.Syscalls)))
	for _, s := range p.Syscalls {
		w.text(string(s.Action))
		w.errno(s.ErrnoRet)
		w.number(uint64(len(s.Names)))
		for _, name := range s.Names {
			w.text(name)
		}
		w.number(uint64(len(s.Args)))
		for _, a := range s.Args {
			for _, n := range []uint64{uint64(a.Index), a.Value, a.ValueTwo} {
				w.number(n)
			}
			w.text(string(a.Op))
		}
	}
}
