package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Level says how exact a key is. Lower is more exact; estimates borrow
// strength from the next higher level (DESIGN section 6).
type Level uint8

// The levels, from exact to general.
const (
	LevelDigestCommand Level = iota
	LevelRepositoryCommand
	LevelExecutable
	LevelRepository
	LevelUser
	LevelGroup
	LevelNode
)

var levelNames = [...]string{"image+command", "repository+command", "executable", "repository", "user", "group", "node"}

// String returns the level's name as printed by explain.
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return "unknown"
}

// Key names a set of runs that are alike at one level. Value is short, printable and
// fit for a NATS subject token or a file name.
type Key struct {
	Level Level  `json:"level"`
	Value string `json:"value"`
}

// String returns "level:value".
func (k Key) String() string { return k.Level.String() + ":" + k.Value }

// Keys lists the keys of these facts from exact to general. Levels whose facts
// are unknown are left out; the node level is always last, so the list is
// never empty.
func (f Facts) Keys() []Key {
	command := digest(f.Args...)
	keys := make([]Key, 0, 7)
	add := func(l Level, known string, parts ...string) {
		if known != "" {
			keys = append(keys, Key{Level: l, Value: digest(parts...)})
		}
	}
	add(LevelDigestCommand, f.Image.Digest, f.Image.Digest, command)
	add(LevelRepositoryCommand, f.Image.Repository, f.Image.Repository, command)
	add(LevelExecutable, f.Executable.SHA256, f.Executable.SHA256)
	add(LevelRepository, f.Image.Repository, f.Image.Repository)
	add(LevelUser, f.User, f.User)
	add(LevelGroup, f.Group, f.Group)
	return append(keys, Key{Level: LevelNode, Value: "node"})
}

// maxName bounds a workload's name in bytes.
const maxName = 60

// RootfsKey is the key of image and command for who knows no image: a shim
// without a daemon. The layers below a container's own lie in the same
// directories for every container of an image. There is none for a root filesystem
// that is not made of layers.
func (f Facts) RootfsKey() (Key, bool) {
	if len(f.Rootfs) < 2 {
		return Key{}, false
	}
	parts := append([]string{"rootfs", digest(f.Args...)}, f.Rootfs[1:]...) // the first layer is the container's own
	return Key{Level: LevelDigestCommand, Value: digest(parts...)}, true
}

// Name is the workload's name for people: repository (or executable) and the first
// words of its command, at most 60 bytes, all of them printable.
func (f Facts) Name() string {
	name := f.Image.Repository
	if name == "" {
		name = f.Executable.Path
	}
	name = strings.TrimPrefix(name, "docker.io/library/")
	separator := " -- "
	for _, arg := range f.Args {
		if len(name) > maxName {
			break
		}
		name += separator + arg
		separator = " "
	}
	name = strings.Map(printable, strings.TrimPrefix(name, " -- "))
	switch {
	case name == "":
		return "unknown"
	case len(name) > maxName:
		const more = "..."
		end := maxName - len(more)
		for !utf8.RuneStart(name[end]) {
			end--
		}
		return name[:end] + more
	}
	return name
}

func printable(r rune) rune {
	if r == utf8.RuneError || !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

// digest hashes parts unambiguously (each is followed by a NUL) to 128 bits of hex.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
