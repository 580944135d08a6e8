package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
)

// weightFile is a file of a group's weight at disks, from 1 to its most.
type weightFile struct {
	name  string
	scale func(int64) int64 // from a weight of 10 to 1000, runc's scale
}

// The files, the first that a group has counts, as for runc: BFQ's weighs only at disks with that scheduler, the other of cgroup v2
// only at those with a cost model (io.cost.qos).
var (
	weights1 = []weightFile{{"blkio.weight", same}, {"blkio.bfq.weight", same}}
	weights2 = []weightFile{{"io.bfq.weight", same}, {"io.weight", func(n int64) int64 { return int64(cgroups.ConvertBlkIOToIOWeightValue(uint16(max(n, 10)))) }}}
)

func same(n int64) int64 { return n }

const (
	defaultWeight = 100 // the kernel's, in each of the files
	noWeights     = "a kernel built with CONFIG_BFQ_GROUP_IOSCHED has it, and in cgroup v2 one with CONFIG_BLK_CGROUP_IOCOST"
)

// SetIOWeight gives the group a weight at disks, from 10 to 1000, and reads it back; 0 is the kernel's default. The error wraps
// errdefs.ErrFailedPrecondition where the kernel has no weights, and fs.ErrNotExist when the group is gone.
func (g Group) SetIOWeight(n int64) error {
	f, path, err := g.weight()
	if errors.Is(err, errdefs.ErrFailedPrecondition) && n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	want := int64(defaultWeight)
	if n != 0 {
		want = f.scale(n)
	}
	if err := os.WriteFile(path, []byte(strconv.FormatInt(want, 10)), 0); err != nil {
		return fmt.Errorf("set the weight of a container at disks: %w", err)
	}
	if has, err := readWeight(path); err != nil || has != want {
		return errors.Join(fmt.Errorf("set the weight of a container at disks: the kernel has %d in %s, not %d", has, f.name, want), err)
	}
	return nil
}

// weight is the file of the group's weight.
func (g Group) weight() (weightFile, string, error) {
	dir, v1 := g.dir("blkio")
	files := weights2
	if v1 {
		files = weights1
	}
	var names []string
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if _, err := os.Stat(path); err == nil && dir != "" {
			return f, path, nil
		}
		names = append(names, f.name)
	}
	if dir != "" && !g.Exists() {
		return weightFile{}, "", fmt.Errorf("set the weight of a container at disks: %w", fs.ErrNotExist)
	}
	return weightFile{}, "", fmt.Errorf("a container cannot be given a weight at disks: its cgroup has no %s; %s: %w",
		strings.Join(names, " and no "), noWeights, errdefs.ErrFailedPrecondition)
}

// readWeight reads a file of weights: "100", or of cgroup v2 "default 100" and a line for each disk that has another.
func readWeight(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	line, _ := cutByte(data, '\n')
	return number([]byte(strings.TrimPrefix(string(line), "default "))), nil
}

// IOWeighable reports, by an error that wraps errdefs.ErrFailedPrecondition, that groups on this machine have no weight at disks. Where
// there is no group yet to look at, nothing is reported.
func IOWeighable() error {
	mounts, err := hierarchies()
	if err != nil {
		return err
	}
	m, v1 := mounts["blkio"]
	files := weights1
	if !v1 {
		m, files = mounts[unifiedKey], weights2
	}
	return weighable(m.point, files)
}

// weighable looks at the groups below the root, which itself has no weight. One of cgroup v2 without the controller says nothing.
func weighable(point string, files []weightFile) error {
	var controlled []string
	for _, of := range []string{IORead.file, "io.stat"} { // of v1 and v2
		found, _ := filepath.Glob(filepath.Join(point, "*", of))
		controlled = append(controlled, found...)
	}
	if len(controlled) == 0 {
		return nil
	}
	var names []string
	for _, f := range files {
		if found, _ := filepath.Glob(filepath.Join(point, "*", f.name)); len(found) > 0 {
			return nil
		}
		names = append(names, f.name)
	}
	return fmt.Errorf("a container cannot be given a weight at disks: no cgroup has %s; %s: %w", strings.Join(names, " or "), noWeights, errdefs.ErrFailedPrecondition)
}
