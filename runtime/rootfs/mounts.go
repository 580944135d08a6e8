package rootfs

import (
	"path/filepath"
	"slices"
	"strings"
)

// Mount is one of a snapshot's mounts, as containerd gives them.
type Mount struct {
	Type    string
	Source  string
	Target  string // subdirectory of the root filesystem; usually empty
	Options []string
}

// Layers returns the directories that mounts would join, topmost first. What
// is not one overlay or bind mount of absolute directories is only found where
// it gets mounted: the answer then is bundleRootfs alone.
func Layers(mounts []Mount, bundleRootfs string) []string {
	fallback := []string{bundleRootfs}
	if len(mounts) != 1 || mounts[0].Target != "" {
		return fallback
	}
	var layers []string
	switch m := mounts[0]; {
	case m.Type == "overlay":
		layers = overlayLayers(m.Options)
	case m.Type == "bind", slices.Contains(m.Options, "bind"), slices.Contains(m.Options, "rbind"):
		layers = []string{m.Source}
	}
	if len(layers) == 0 || slices.ContainsFunc(layers, func(dir string) bool { return !filepath.IsAbs(dir) }) {
		return fallback
	}
	return layers
}

// Upper returns the directory that takes a run's writes to its root
// filesystem; empty when that cannot be told from the mounts.
func Upper(mounts []Mount) string {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return ""
	}
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok && filepath.IsAbs(dir) {
			return unescape(dir)
		}
	}
	return ""
}

func overlayLayers(options []string) []string {
	var upper, lower []string
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "upperdir":
			upper = []string{unescape(value)}
		case "lowerdir":
			lower = splitLower(value)
		case "lowerdir+":
			lower = append(lower, value)
		}
	}
	return append(upper, lower...)
}

// splitLower splits at colons that no backslash escapes. An empty element
// begins the data-only layers, which have no names of their own.
func splitLower(value string) []string {
	var dirs []string
	start := 0
	for i := 0; i <= len(value); i++ {
		switch {
		case i+1 < len(value) && value[i] == '\\':
			i++
		case i == len(value) || value[i] == ':':
			if i == start {
				return dirs
			}
			dirs = append(dirs, unescape(value[start:i]))
			start = i + 1
		}
	}
	return dirs
}

// unescape removes the backslashes overlayfs uses to quote.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
