package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"forefend.dev/forefend/runtime/workload"
)

// Dir is the directory of all records, <state>/c. A container's record is
// NAMESPACE/CONTAINER/record.json under it; that directory is the container's
// own and may hold more.
type Dir string

const recordName = "record.json"

// Path returns the directory of one container's state.
func (d Dir) Path(id workload.ID) (string, error) {
	if err := id.Validate(); err != nil {
		return "", err
	}
	return filepath.Join(string(d), id.Namespace, id.Container), nil
}

// Write puts the record on disk in place of an older one of the same container.
// Version and, when empty, Boot are filled in.
func (d Dir) Write(r Record) error {
	path, err := d.Path(r.ID)
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", r.ID, err)
	}
	r.Version = Version
	if r.Boot == "" {
		r.Boot = bootID()
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", r.ID, err)
	}
	return replaceFile(filepath.Join(path, recordName), append(data, '\n'))
}

// Read returns the record of one container. The error wraps fs.ErrNotExist
// when there is none and ErrDamaged when there is one that cannot be read.
func (d Dir) Read(id workload.ID) (Record, error) {
	dir, err := d.Path(id)
	if err != nil {
		return Record{}, fmt.Errorf("read the record of %s: %w", id, err)
	}
	path := filepath.Join(dir, recordName)
	data, err := readFile(path)
	if err != nil {
		return Record{}, fmt.Errorf("read the record of %s: %w", id, err)
	}
	r, err := parse(data)
	if err == nil && r.ID != id {
		err = fmt.Errorf("it is about %s", r.ID)
	}
	if err != nil {
		return Record{}, damaged(path, err)
	}
	return r, nil
}

// parse reads a record of any version this package knows. Fields it does not
// know are left out: a newer shim may have written them.
func parse(data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, err
	}
	if r.Version < 1 || r.Version > Version {
		return Record{}, fmt.Errorf("version %d, known are 1 to %d", r.Version, Version)
	}
	if err := r.ID.Validate(); err != nil {
		return Record{}, err
	}
	if r.ShimPID < 0 || r.PID < 0 {
		return Record{}, errors.New("a process id is negative")
	}
	return r, nil
}

// Remove deletes the container's whole state directory. It is no error when
// there is none.
func (d Dir) Remove(id workload.ID) error {
	path, err := d.Path(id)
	if err != nil {
		return fmt.Errorf("remove the record of %s: %w", id, err)
	}
	if err := os.RemoveAll(path); err != nil { // does not follow symbolic links
		return fmt.Errorf("remove the record of %s: %w", id, err)
	}
	// The namespace's directory goes with its last container.
	err = os.Remove(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("remove the record of %s: %w", id, err)
	}
	return nil
}

// List calls yield for each container until it returns false. What cannot be
// read is yielded as an error together with a Record that has only the ID (when the
// directory names one), so that it can be reported and removed. A
// directory without a record yields fs.ErrNotExist: left by a crash, or just
// being made. A missing Dir is an empty one.
func (d Dir) List(yield func(Record, error) bool) {
	for namespace, err := range subdirs(string(d)) {
		if err != nil {
			if !yield(Record{}, err) {
				return
			}
			continue
		}
		for container, err := range subdirs(filepath.Join(string(d), namespace)) {
			id := workload.ID{Namespace: namespace, Container: container}
			var r Record
			if err == nil {
				r, err = d.Read(id)
			}
			if err != nil {
				r = Record{ID: id}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// subdirs yields the names of dir's subdirectories, a batch in memory at a time.
func subdirs(dir string) func(yield func(string, error) bool) {
	return func(yield func(string, error) bool) {
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield("", fmt.Errorf("list records: %w", err))
			return
		}
		defer f.Close()
		for {
			entries, err := f.ReadDir(256)
			for _, e := range entries {
				if e.IsDir() && !yield(e.Name(), nil) {
					return
				}
			}
			if err != nil {
				// A directory that was removed meanwhile has no more entries.
				if !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
					yield("", fmt.Errorf("list records: %w", err))
				}
				return
			}
		}
	}
}
