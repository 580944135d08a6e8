package seccomp

//go:generate go run gen.go

import (
	"slices"
	"sync"
)

// syscallNumber is one row of a generated table.
type syscallNumber struct {
	name string
	nr   int
}

// numbering is one architecture's table, both ways. Built on first use: the shim
// of a container without supervision never needs it.
type numbering struct {
	byName map[string]int
	byNr   []string
}

var (
	nativeNumbering  = sync.OnceValue(func() numbering { return index(nativeSyscalls) })
	foreignNumbering = sync.OnceValue(func() numbering { return index(foreignSyscalls) })
)

func index(rows []syscallNumber) numbering {
	n := numbering{byName: make(map[string]int, len(rows))}
	for _, r := range rows {
		n.byName[r.name] = r.nr
		for len(n.byNr) <= r.nr {
			n.byNr = append(n.byNr, "")
		}
		n.byNr[r.nr] = r.name
	}
	return n
}

func (n numbering) name(nr int) (string, bool) {
	if nr < 0 || nr >= len(n.byNr) || n.byNr[nr] == "" {
		return "", false
	}
	return n.byNr[nr], true
}

// Number returns the native number of the named system call.
func Number(name string) (int, bool) {
	nr, ok := nativeNumbering().byName[name]
	return nr, ok
}

// Name returns the name of the system call with the native number nr.
func Name(nr int) (string, bool) { return nativeNumbering().name(nr) }

// ForeignOnly reports whether the named call exists in the foreign architecture's numbering alone: who makes it, makes foreign calls.
func ForeignOnly(name string) bool {
	_, foreign := foreignNumbering().byName[name]
	_, native := nativeNumbering().byName[name]
	return foreign && !native
}

// Names returns every native system call known, in the order of their numbers.
func Names() []string {
	byNr := nativeNumbering().byNr
	return slices.DeleteFunc(slices.Clone(byNr), func(s string) bool { return s == "" })
}
