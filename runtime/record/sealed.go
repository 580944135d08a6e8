package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// sealedVersion is the version of the sealed file format: a header line
// "forefend-sealed VERSION sha256:HEX", then the JSON of a sealed value, which
// the checksum covers to the last byte.
const sealedVersion = 1

// MaxSealed bounds how many sealed files are kept; those written longest ago
// go first.
const MaxSealed = 10000

const sealedSuffix = ".sealed"

// SealedDir is the directory of sealed policy files, one for each workload key.
type SealedDir string

// sealed is the body of a sealed file. The key is inside so that a file that
// was renamed or copied is not taken for another workload's.
type sealed struct {
	Key      workload.Key `json:"key"`
	Decision api.Decision `json:"decision"`
}

// Write keeps decision as the policy of key for the time without daemon.
func (d SealedDir) Write(key workload.Key, decision api.Decision) error {
	path, err := d.path(key)
	if err != nil {
		return err
	}
	body, err := json.Marshal(sealed{Key: key, Decision: decision})
	if err != nil {
		return fmt.Errorf("seal the policy of %s: %w", key, err)
	}
	_, statErr := os.Lstat(path)
	if err := replaceFile(path, append(header(body), body...)); err != nil {
		return fmt.Errorf("seal the policy of %s: %w", key, err)
	}
	if errors.Is(statErr, fs.ErrNotExist) { // only a new file can exceed the bound
		return d.trim(MaxSealed)
	}
	return nil
}

// Read returns the sealed policy of the first of keys that has one, and that
// key. The error wraps fs.ErrNotExist when none has, and ErrDamaged when the
// first file found cannot be trusted: a more general key's policy is no
// substitute for one that was there, so the search ends.
func (d SealedDir) Read(keys []workload.Key) (api.Decision, workload.Key, error) {
	for _, key := range keys {
		path, err := d.path(key)
		if err != nil {
			return api.Decision{}, workload.Key{}, err
		}
		data, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return api.Decision{}, key, fmt.Errorf("read sealed policy: %w", err)
		}
		s, err := parseSealed(data)
		if err == nil && s.Key != key {
			err = fmt.Errorf("it is about %s", s.Key)
		}
		if err != nil {
			return api.Decision{}, key, damaged(path, err)
		}
		return s.Decision, key, nil
	}
	return api.Decision{}, workload.Key{}, fmt.Errorf("sealed policy for %d keys in %s: %w", len(keys), d, fs.ErrNotExist)
}

// Remove deletes the sealed policy of key. It is no error when there is none.
func (d SealedDir) Remove(key workload.Key) error {
	path, err := d.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove sealed policy: %w", err)
	}
	return nil
}

// path names the key's file. Values are hex or "node"; nothing else may become
// part of a file name.
func (d SealedDir) path(key workload.Key) (string, error) {
	const most = 64
	plain := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }
	if key.Value == "" || len(key.Value) > most || strings.ContainsFunc(key.Value, func(r rune) bool { return !plain(r) }) {
		return "", fmt.Errorf("workload key %.80q is not fit for a file name", key.Value)
	}
	return filepath.Join(string(d), fmt.Sprintf("%d-%s%s", key.Level, key.Value, sealedSuffix)), nil
}

func header(body []byte) []byte {
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "forefend-sealed %d sha256:%s\n", sealedVersion, hex.EncodeToString(sum[:]))
}

func parseSealed(data []byte) (sealed, error) {
	line, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok || !bytes.HasPrefix(line, []byte("forefend-sealed ")) {
		return sealed{}, errors.New("it does not start with a header line")
	}
	if want := bytes.TrimSuffix(header(body), []byte("\n")); !bytes.Equal(line, want) {
		return sealed{}, fmt.Errorf("header is %.120q, its content needs %q", line, want)
	}
	var s sealed
	if err := json.Unmarshal(body, &s); err != nil {
		return sealed{}, err
	}
	if s.Decision.Version < 1 || s.Decision.Version > api.Version {
		return sealed{}, fmt.Errorf("decision has version %d, known are 1 to %d", s.Decision.Version, api.Version)
	}
	return s, nil
}

// trim removes the files written longest ago when there are more than most,
// and then a tenth of most beyond, so that the next new files find room
// without looking at every file's time again.
func (d SealedDir) trim(most int) error {
	dir, err := os.Open(string(d))
	if err != nil {
		return fmt.Errorf("bound sealed policies: %w", err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1) // unlike os.ReadDir this does not sort
	if err != nil {
		return fmt.Errorf("bound sealed policies: %w", err)
	}
	if len(entries) <= most {
		return nil
	}
	type file struct {
		name string
		time time.Time
	}
	files := make([]file, 0, len(entries))
	for _, e := range entries {
		if fi, err := e.Info(); err == nil { // an error: gone meanwhile
			files = append(files, file{e.Name(), fi.ModTime()})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return a.time.Compare(b.time) })
	excess := max(0, len(files)-most+most/10)
	for _, f := range files[:excess] {
		if err := os.Remove(filepath.Join(string(d), f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("bound sealed policies: %w", err)
		}
	}
	return nil
}
