package scan

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"forefend.dev/forefend/predictor/scan/numbers"
	"forefend.dev/forefend/predictor/scan/object"
)

// storeVersion is part of every remembered file's name. Raise it when an analysis of the same bytes would say something else.
const storeVersion = 4

// maxRemembered bounds a remembered file.
const maxRemembered = 256 << 20

// store remembers objects by content, in a directory of the daemon's own. Without a directory it remembers nothing.
type store struct{ dir string }

// object analyses a file, or remembers what its content gave before.
func (s *store) object(v *view, name string) (o *object.Object, remembered bool, err error) {
	defer func() { // the file was cut short while it was mapped
		if r := recover(); r != nil {
			err = fmt.Errorf("read it: %v", r)
		}
	}()
	debug.SetPanicOnFault(true)
	err = v.mapped(name, func(data []byte) error {
		if !isELF(data) {
			return object.ErrNotELF
		}
		key := ""
		if s.dir != "" {
			sum := sha256.Sum256(data)
			key = fmt.Sprintf("o%d-%s", storeVersion, hex.EncodeToString(sum[:]))
			o = new(object.Object)
			if s.read(key, o) == nil {
				remembered = true
				return nil
			}
		}
		var err error
		if o, err = object.Read(data); err != nil {
			return err
		}
		if key != "" {
			s.write(key, o)
		}
		return nil
	})
	return o, remembered, err
}

func isForeign(err error) bool { return errors.Is(err, object.ErrNotELF) }

func numberName(arch string, n int) (string, bool) { return numbers.Name(arch, n) }

// read decodes what is remembered under key.
func (s *store) read(key string, value any) error {
	f, err := os.Open(filepath.Join(s.dir, key))
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRemembered))
	if err != nil {
		return err
	}
	return gob.NewDecoder(bytes.NewReader(b)).Decode(value)
}

// write remembers value. A full or read-only disk only costs time at the next scan.
func (s *store) write(key string, value any) {
	var b bytes.Buffer
	if gob.NewEncoder(&b).Encode(value) != nil {
		return
	}
	f, err := os.CreateTemp(s.dir, "new-*")
	if err != nil {
		return
	}
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, key))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
}
