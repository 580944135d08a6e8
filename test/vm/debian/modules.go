package debian

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// needed are the modules without which the guest finds neither its disk nor its root; the kernel loads all others
// itself once there is a root.
var needed = []string{"virtio_pci", "virtio_console", "virtio_blk", "virtiofs", "overlay", "ext4"}

// loadOrder lists the files, below the directory of a kernel's modules, to load for the wanted modules: dependencies
// first, nothing twice, without what is built into the kernel.
func loadOrder(dep, builtin string, wanted []string) ([]string, error) {
	files := make(map[string]string) // module to file
	needs := make(map[string][]string)
	for line := range strings.Lines(dep) {
		file, after, ok := strings.Cut(strings.TrimSpace(line), ":")
		if ok {
			files[moduleName(file)], needs[file] = file, strings.Fields(after)
		}
	}
	inside := make(map[string]bool)
	for line := range strings.Lines(builtin) {
		inside[moduleName(strings.TrimSpace(line))] = true
	}
	var order []string
	for _, name := range wanted {
		file, ok := files[name]
		switch {
		case inside[name]:
			continue
		case !ok:
			return nil, fmt.Errorf("this kernel has no module %s", name)
		}
		// depmod lists all dependencies, the deepest last.
		chain := append([]string{file}, needs[file]...)
		slices.Reverse(chain)
		for _, f := range chain {
			if !slices.Contains(order, f) {
				order = append(order, f)
			}
		}
	}
	return order, nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// moduleDir is where the guest's first process finds modules, named in the order to load them.
const moduleDir = "modules"

// moduleEntries are the modules of dir (…/lib/modules/RELEASE) that the initial RAM disk carries.
func moduleEntries(dir string) ([]Entry, error) {
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	order, err := loadOrder(string(dep), string(builtin), needed)
	if err != nil {
		return nil, err
	}
	entries := []Entry{{Name: moduleDir, Mode: os.ModeDir | 0o755}}
	for i, file := range order {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		entries = append(entries, Entry{Name: fmt.Sprintf("%s/%03d-%s.ko", moduleDir, i, moduleName(file)), Mode: 0o644, Data: data})
	}
	return entries, nil
}
