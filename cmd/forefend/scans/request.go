package scans

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"forefend.dev/forefend/runtime/workload"
)

// Request is one command in one root filesystem.
type Request struct {
	Key     string   // of the content: equal keys, equal scans
	Layers  []string // directories, topmost first
	Args    []string
	Env     []string // of those variables that decide which code runs
	Cwd     string
	Name    string // for people
	release func()
}

// RequestOf is what a container with these facts runs; ok is false when they do not say.
func RequestOf(f workload.Facts) (r Request, ok bool) {
	if len(f.Args) == 0 || len(f.Rootfs) == 0 {
		return Request{}, false
	}
	layers := f.Rootfs
	if len(layers) > 1 {
		layers = layers[1:] // the first is the container's own: what it writes there is no part of its image
	}
	env := f.Env
	if f.Path != "" {
		env = append([]string{"PATH=" + f.Path}, env...)
	}
	r = Request{Layers: layers, Args: f.Args, Env: env, Cwd: f.Cwd, Name: f.Name()}
	content := []string{f.Image.Digest}
	switch {
	case f.Image.Digest != "":
	case len(f.Rootfs) > 1:
		content = layers
	case f.Executable.SHA256 != "": // a directory that anybody may change: its program at least is known
		content = append([]string{f.Executable.SHA256}, layers...)
	default:
		return Request{}, false
	}
	r.Key = key(content, r.Args, r.Env, []string{r.Cwd})
	return r, true
}

// key hashes lists unambiguously to 128 bits of hex.
func key(lists ...[]string) string {
	h := sha256.New()
	for _, list := range lists {
		for _, s := range list {
			h.Write([]byte(s))
			h.Write([]byte{0})
		}
		h.Write([]byte{0, 1})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// arguments are those of the scanner.
func (r Request) arguments(cache, osv string) []string {
	args := []string{"--json"}
	for _, dir := range r.Layers {
		args = append(args, "--rootfs", dir)
	}
	for _, pair := range r.Env {
		args = append(args, "--env", pair)
	}
	if r.Cwd != "" {
		args = append(args, "--cwd", r.Cwd)
	}
	if cache != "" {
		args = append(args, "--cache", cache)
	}
	if osv != "" {
		args = append(args, "--osv", osv)
	}
	return slices.Concat(args, []string{"--"}, r.Args)
}
