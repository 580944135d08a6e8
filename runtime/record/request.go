package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/workload"
)

// Request is what a container was requested with: all that deciding again about a running one needs beside its
// record. It is written once, beside the record, and never changes.
type Request struct {
	Version int        `json:"version"`
	Run     string     `json:"run"`
	Spec    specs.Spec `json:"spec"` // what a decision looks at, as containerd wrote it
	// Kin, Own and Airbag are those of the AdmitRequest.
	Kin    bool `json:"kin,omitempty"`
	Airbag bool `json:"airbag,omitempty"`
	Own    bool `json:"own,omitempty"`

	Size int `json:"-"` // bytes on disk; ReadRequest fills it in
}

const requestName = "request.json"

// WriteRequest keeps a container's request until its record is removed. Version is filled in.
func (d Dir) WriteRequest(id workload.ID, r Request) error {
	path, err := d.Path(id)
	if err != nil {
		return fmt.Errorf("write the request of %s: %w", id, err)
	}
	r.Version = Version
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the request of %s: %w", id, err)
	}
	return replaceFile(filepath.Join(path, requestName), append(data, '\n'))
}

// ReadRequest returns the request of one container's run. The error wraps fs.ErrNotExist when there is none, as of a
// container of an older release, and ErrDamaged when there is one that cannot be read, or another run's.
func (d Dir) ReadRequest(id workload.ID, run string) (Request, error) {
	dir, err := d.Path(id)
	if err != nil {
		return Request{}, fmt.Errorf("read the request of %s: %w", id, err)
	}
	path := filepath.Join(dir, requestName)
	data, err := readFile(path)
	if err != nil {
		return Request{}, fmt.Errorf("read the request of %s: %w", id, err)
	}
	var r Request
	err = json.Unmarshal(data, &r)
	switch {
	case err != nil:
	case r.Version < 1 || r.Version > Version:
		err = fmt.Errorf("version %d, known are 1 to %d", r.Version, Version)
	case r.Run != run:
		err = errors.New("it is that of another run")
	}
	if err != nil {
		return Request{}, damaged(path, err)
	}
	r.Size = len(data)
	return r, nil
}
