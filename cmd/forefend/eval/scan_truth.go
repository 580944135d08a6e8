package eval

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// truth is what a program did when it was watched.
type truth struct {
	name    string
	command []string
	calls   []string // sorted
}

// maxTruth bounds one file.
const maxTruth = 16 << 20

// readTruths reads every NAME.json of a directory, with NAME.truth beside it where there is one.
func readTruths(dir, rootfs string) ([]truth, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json*"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(fmt.Errorf("%s holds no NAME.json with what a program did", dir), err)
	}
	slices.Sort(files)
	var all []truth
	for _, file := range files {
		t, err := readTruth(file, rootfs)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

func readTruth(file, rootfs string) (truth, error) {
	b, err := readAll(file)
	if err != nil {
		return truth{}, err
	}
	var record struct {
		App struct {
			Name string
			Cmd  []string
		} `json:"app"`
		Phases []struct {
			Counts map[string]int
		} `json:"phases"`
	}
	if err := json.Unmarshal(b, &record); err != nil {
		return truth{}, fmt.Errorf("what a program did, %s: %w", file, err)
	}
	base, _, _ := strings.Cut(filepath.Base(file), ".json")
	t := truth{name: record.App.Name}
	if t.name == "" {
		t.name = base
	}
	for _, arg := range record.App.Cmd {
		t.command = append(t.command, insideRoot(arg, rootfs))
	}
	if len(t.command) == 0 {
		return truth{}, fmt.Errorf("what a program did, %s: app.Cmd names no command", file)
	}
	calls := make(map[string]bool)
	list, err := readAll(filepath.Join(filepath.Dir(file), base+".truth"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for _, p := range record.Phases {
			for name := range p.Counts {
				calls[name] = true
			}
		}
	case err != nil:
		return truth{}, err
	default:
		for name := range strings.FieldsSeq(string(list)) {
			calls[name] = true
		}
	}
	t.calls = slices.Sorted(maps.Keys(calls))
	return t, nil
}

// insideRoot is an argument as the program inside the root filesystem sees it.
func insideRoot(arg, rootfs string) string {
	arg = strings.ReplaceAll(arg, "${ROOT}", "$ROOT")
	if rest, ok := strings.CutPrefix(arg, "$ROOT"); ok && rest == "" {
		return "/"
	}
	arg = strings.ReplaceAll(arg, "$ROOT", "")
	if root := strings.TrimSuffix(rootfs, "/"); root != "" {
		if rest, ok := strings.CutPrefix(arg, root); ok && strings.HasPrefix(rest, "/") {
			return rest
		}
	}
	return arg
}

func readAll(file string) ([]byte, error) {
	f, err := openData(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTruth+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(b) > maxTruth {
		return nil, fmt.Errorf("read %s: more than %d bytes: %w", file, maxTruth, os.ErrInvalid)
	}
	return b, nil
}
