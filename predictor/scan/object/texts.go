package object

import (
	"maps"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/scan/code"
)

// Bounds of what is kept of a file's strings.
const (
	maxPaths    = 4096
	maxPathSize = 512
	maxNames    = 1 << 18
)

// textRef is a string constant of Go code, which has a length instead of an end.
type textRef struct {
	fn   int32
	addr uint64
	size uint32
}

// stringPool is where Go strings are collected.
type stringPool struct{ refs []textRef }

// text is the constant string at addr.
func (b *builder) text(addr uint64) string {
	s := b.segment(addr)
	if s == nil || s.exec {
		return ""
	}
	return terminated(b.at(addr))
}

// goText notes an address that is followed by a small constant: a string and its length.
func (s *sweeper) goText(in *code.Inst, fn int32) {
	switch in.Op {
	case code.Addr:
		s.goAddress(uint64(in.Imm))
	case code.Const:
		if n := len(s.out.texts); n > 0 && in.Imm > 0 && in.Imm <= maxPathSize && s.out.texts[n-1].fn == fn && s.out.texts[n-1].size == 0 {
			s.out.texts[n-1].size = uint32(in.Imm)
		}
	}
	if n := len(s.out.texts); n > 1 && s.out.texts[n-2].size == 0 { // it was no string
		s.out.texts = slices.Delete(s.out.texts, n-2, n-1)
	}
}

func (s *sweeper) goAddress(at uint64) {
	if s.b.obj.Go && !s.b.executable(at) {
		s.out.texts = append(s.out.texts, textRef{s.fn, at, 0})
	}
}

// texts collects the strings that may name programs, libraries, directories, and functions to look up.
func (b *builder) texts() {
	uses := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { _, ok := b.imports[n]; return ok })
	}
	paths, names := make(map[string]bool), make(map[uint32]bool)
	lookUp := uses("dlsym", "dlvsym")
	keepPaths := b.obj.Static || b.obj.Go || len(b.special) > 0 || len(b.obj.Exports["execve"]) > 0
	if !lookUp && !keepPaths {
		return
	}
	for _, s := range b.segments {
		if s.exec && len(b.segments) > 1 && b.sections[".text"].data != nil {
			continue
		}
		eachString(s.data, func(t []byte) {
			if keepPaths && len(paths) < maxPaths && pathLike(t) {
				paths[string(t)] = true
			}
			if lookUp && len(names) < maxNames && nameLike(t) {
				names[Hash(string(t))] = true
			}
		})
	}
	if b.obj.Go {
		b.goPaths(paths)
	}
	b.obj.Paths = slices.Sorted(maps.Keys(paths))
	b.obj.Names = slices.Sorted(maps.Keys(names))
}

// goPaths adds path-like strings that code names.
func (b *builder) goPaths(paths map[string]bool) {
	for _, r := range b.pool.refs {
		if t := b.at(r.addr); r.size > 1 && uint64(r.size) <= uint64(len(t)) && len(paths) < maxPaths && pathLike(t[:r.size]) {
			paths[string(t[:r.size])] = true
		}
	}
	b.goStrings(func(t []byte) {
		if len(paths) < maxPaths && pathLike(t) {
			paths[string(t)] = true
		}
	})
}

// eachString calls fn for the printable strings of data that end with NUL.
func eachString(data []byte, fn func([]byte)) {
	start := 0
	for i, c := range data {
		if c >= 0x20 && c < 0x7f || c == '\n' || c == '\t' {
			continue
		}
		if c == 0 && i-start >= 3 && i-start <= maxPathSize {
			fn(data[start:i])
		}
		start = i + 1
	}
}

func pathLike(t []byte) bool {
	if len(t) < 3 || len(t) > maxPathSize {
		return false
	}
	s := string(t)
	return t[0] == '/' && !strings.ContainsAny(s, "\n\t*<>") || strings.Contains(s, ".so") && !strings.ContainsAny(s, " \n\t%")
}

func nameLike(t []byte) bool {
	if len(t) < 3 || len(t) > 64 {
		return false
	}
	for i, c := range t {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}
