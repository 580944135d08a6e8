package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// version is that of the snapshot. Raise it when a reader of the old one would misread it, keep a golden file of the
// old one; a snapshot of another version is set aside, and the profiles are made from the runs that are kept.
const version = 1

// maxSnapshot bounds what is read into memory.
const maxSnapshot = 64 << 20

var errSnapshot = errors.New("not a snapshot of profiles")

type encoded []byte

func (e encoded) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(e)
	return int64(n), err
}

// readBooks reads what Save wrote. Whatever is in it, the result can be used.
func readBooks(r io.Reader) (books, error) {
	b := newBooks()
	body, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return newBooks(), err
	}
	if len(body) > maxSnapshot {
		return newBooks(), fmt.Errorf("more than %d bytes: %w", maxSnapshot, errSnapshot)
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return newBooks(), fmt.Errorf("%w: %w", errSnapshot, err)
	}
	if b.Version != version {
		return newBooks(), fmt.Errorf("version %d is unknown here: %w", b.Version, errSnapshot)
	}
	if len(b.Users) > maxNames || len(b.Groups) > maxNames || len(b.Conducts) > maxConducts {
		return newBooks(), fmt.Errorf("%d users, %d groups, %d conducts: %w", len(b.Users), len(b.Groups), len(b.Conducts), errSnapshot)
	}
	for _, in := range []map[string]*record{b.Users, b.Groups} {
		for name, r := range in {
			if r == nil || len(name) > maxName || !r.sound() {
				return newBooks(), fmt.Errorf("the record of %.40q: %w", name, errSnapshot)
			}
		}
	}
	for name, c := range b.Conducts {
		if c == nil {
			return newBooks(), fmt.Errorf("the conduct of %.40q: %w", name, errSnapshot)
		}
		c.Findings = c.Findings.Bounded()
	}
	if b.Users == nil || b.Groups == nil || b.Conducts == nil {
		return newBooks(), fmt.Errorf("a part is missing: %w", errSnapshot)
	}
	return b, nil
}

func (r *record) sound() bool {
	for _, a := range r.Asked {
		if !(a > 0) || math.IsInf(float64(a), 0) {
			return false
		}
	}
	return r.Good >= 0 && r.Bad >= 0 && r.Good < 1e12 && r.Bad < 1e12 && len(r.Asked) <= ratios
}

// recentRuns remembers the ids of the newest runs. The zero value is empty.
type recentRuns struct {
	known map[string]bool
	ring  []string
	next  int
}

// add notes a run and reports whether it was known.
func (r *recentRuns) add(id string) bool {
	if id == "" || r.known[id] {
		return id != ""
	}
	if r.known == nil {
		r.known = make(map[string]bool)
	}
	if len(r.ring) < maxRuns {
		r.ring = append(r.ring, id)
	} else {
		delete(r.known, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % maxRuns
	}
	r.known[id] = true
	return false
}
