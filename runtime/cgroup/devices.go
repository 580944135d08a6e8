package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Devices changes which devices the processes of a group can use. Its methods are not for several goroutines at once.
//
// Under cgroup v1 the kernel keeps the list; under v2 a program decides, runc's first. What is only tightened is one more program
// beside it, which denies: nothing else can change by that. What is opened needs another program in its place.
type Devices struct {
	group  Group
	filter filter
}

// Devices returns how the group's devices are changed.
func (g Group) Devices() *Devices { return &Devices{group: g} }

// Access is which devices can be used, in letters of "rwm" by "TYPE:MAJOR:MINOR", numbers or * each. The narrowest entry decides
// about reading and writing.
type Access map[string]string

// Set brings the group from one access to another; created is that with which runc made it. It reads back that the kernel has it, and
// undoes what it did when not. Errors wrap errdefs.ErrFailedPrecondition where nothing was tried.
func (d *Devices) Set(created, before, after Access) error {
	if dir, v1 := d.group.dir("devices"); v1 {
		return setV1(dir, before, after)
	}
	if d.group.Unified == "" {
		return fmt.Errorf("no hierarchy controls devices: %w", errdefs.ErrFailedPrecondition)
	}
	return d.filter.set(d.group.Unified, created, after)
}

// device is one entry of an Access.
type device struct {
	kind         byte // 'c' or 'b'
	major, minor int64
	access       string
}

// anyNumber is the number that stands for all.
const anyNumber = -1

// devices are the entries of an Access, the narrowest first.
func (a Access) devices() ([]device, error) {
	var out []device
	for _, name := range slices.Sorted(maps.Keys(a)) {
		f := strings.Split(name, ":")
		if len(f) != 3 || f[0] != "c" && f[0] != "b" || strings.Trim(a[name], "rwm") != "" {
			return nil, fmt.Errorf("%.60q is not a device: %w", name, errdefs.ErrInvalidArgument)
		}
		d := device{kind: f[0][0], access: a[name]}
		for i, n := range []*int64{&d.major, &d.minor} {
			*n = anyNumber
			if f[i+1] == "*" {
				continue
			}
			v, err := strconv.ParseUint(f[i+1], 10, 31)
			if err != nil {
				return nil, fmt.Errorf("%.60q is not a device: %w", name, errdefs.ErrInvalidArgument)
			}
			*n = int64(v)
		}
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b device) int { return a.width() - b.width() })
	return out, nil
}

// width is how many numbers are open.
func (d device) width() (n int) {
	for _, v := range []int64{d.major, d.minor} {
		if v == anyNumber {
			n++
		}
	}
	return n
}

// setV1 writes what differs into the kernel's list.
func setV1(dir string, before, after Access) error {
	names := maps.Clone(before)
	maps.Copy(names, after)
	if _, err := names.devices(); err != nil {
		return err
	}
	var done []func() error
	undo := func(err error) error {
		for _, u := range slices.Backward(done) {
			if uerr := u(); uerr != nil {
				err = errors.Join(err, fmt.Errorf("not undone: %w", uerr))
			}
		}
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, is := before[name], after[name]
		for _, w := range []struct{ file, back, letters string }{
			{"devices.deny", "devices.allow", without(was, is)}, {"devices.allow", "devices.deny", without(is, was)},
		} {
			if w.letters == "" {
				continue
			}
			if err := writeDevice(dir, w.file, name, w.letters); err != nil {
				return undo(err)
			}
			done = append(done, func() error { return writeDevice(dir, w.back, name, w.letters) })
		}
	}
	if err := verifyV1(dir, before, after); err != nil {
		return undo(err)
	}
	return nil
}

func writeDevice(dir, file, name, letters string) error {
	f := strings.SplitN(name, ":", 2)
	line := f[0] + " " + f[1] + " " + letters
	if err := os.WriteFile(filepath.Join(dir, file), []byte(line), 0o200); err != nil {
		return fmt.Errorf("%s %q (a group can open no device that the one above it has closed): %w", file, line, err)
	}
	return nil
}

// verifyV1 reads the kernel's list, which shows nothing where all is allowed but some.
func verifyV1(dir string, before, after Access) error {
	text, err := os.ReadFile(filepath.Join(dir, "devices.list"))
	if err != nil {
		return fmt.Errorf("read back devices: %w", err)
	}
	has, all := parseList(string(text))
	if all {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] && without(has[name], after[name])+without(after[name], has[name]) != "" {
			return fmt.Errorf("device %s has %q, not %q", name, has[name], after[name])
		}
	}
	return nil
}

// parseList reads a devices.list: "c 1:3 rwm".
func parseList(text string) (access Access, all bool) {
	access = make(Access)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		if f[0] == "a" {
			all = true
			continue
		}
		access[f[0]+":"+f[1]] += f[2]
	}
	return access, all
}

// without are the letters of a that are not in b.
func without(a, b string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(b, r) {
			return -1
		}
		return r
	}, a)
}
