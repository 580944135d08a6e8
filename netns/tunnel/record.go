package tunnel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"forefend.dev/forefend/netns/egress"
	"forefend.dev/forefend/runtime/whole"
)

// recordVersion is raised when a field changes its meaning. Records of another version are set aside.
const recordVersion = 1

// saved is what is written down of a namespace, for the process after this one. No key is in it.
type saved struct {
	Version   int          `json:"version"`
	Container string       `json:"container"`
	PID       int          `json:"pid"`
	Start     uint64       `json:"start"`
	Namespace uint64       `json:"namespace"`
	Base      egress.Base  `json:"base"`
	Leases    []savedLease `json:"leases,omitempty"`
	// Freed are marks that lead nowhere any more, and since when: an interceptor may still go by what it was told of them.
	Freed map[uint32]time.Time `json:"freed,omitempty"`
}

type savedLease struct {
	Lease
	Mark      uint32 `json:"mark"`
	Index     int    `json:"index,omitempty"`     // of the device
	Made      string `json:"made,omitempty"`      // of what configuration: the tunnel's print
	Provision string `json:"provision,omitempty"` // the id of the gateway's lease, where peers are a gateway's
}

// recordDir holds one file for each guarded namespace.
type recordDir string

// maxRecord bounds what is read of one.
const maxRecord = 256 << 10

const suffix = ".json"

func (d recordDir) path(namespace uint64) string {
	return filepath.Join(string(d), strconv.FormatUint(namespace, 10)+suffix)
}

// store replaces a record as a whole. The directory is under /run: a machine that starts anew has no namespaces.
func (d recordDir) store(r saved) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write down a guarded namespace: %w", err)
	}
	if err := whole.Replace(d.path(r.Namespace), body); err != nil {
		return fmt.Errorf("write down a guarded namespace: %w", err)
	}
	return nil
}

func (d recordDir) remove(namespace uint64) { _ = os.Remove(d.path(namespace)) } // one that is left is found stale

// load reads all records. What is no record is removed.
func (d recordDir) load() ([]saved, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("records of guarded namespaces: %w", err)
	}
	var all []saved
	for _, e := range entries {
		path := filepath.Join(string(d), e.Name())
		r, err := parseRecord(path)
		if err == nil && d.path(r.Namespace) != path {
			err = errors.New("it is under another one's name")
		}
		if err != nil {
			_ = os.Remove(path) // or it is there the next time
			continue
		}
		all = append(all, r)
	}
	return all, nil
}

func parseRecord(path string) (saved, error) {
	var r saved
	if err := readRecord(path, &r); err != nil {
		return saved{}, err
	}
	if r.Version != recordVersion {
		return saved{}, fmt.Errorf("version %d", r.Version)
	}
	return r, nil
}

func readRecord(path string, into any) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecord {
		return fs.ErrInvalid
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}
