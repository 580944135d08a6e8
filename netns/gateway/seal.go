package gateway

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"forefend.dev/forefend/runtime/whole"
)

// seal is what receipts are signed with, as it is written down.
type seal struct {
	Version int    `json:"version"`
	Seed    []byte `json:"seed"`   // of Ed25519's private key (RFC 8032)
	Starts  uint32 `json:"starts"` // of gateways that had it: the upper half of serials, which never go back
}

const (
	sealName    = "receipts.key"
	sealVersion = 1
	maxSeal     = 4096 // bytes
)

// openSeal reads the seal of a directory, counts this start and writes that down. Where there is none it is made.
func openSeal(dir string) (s seal, err error) {
	path := filepath.Join(dir, sealName)
	body, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s = seal{Version: sealVersion, Seed: make([]byte, ed25519.SeedSize)}
		_, _ = rand.Read(s.Seed) // it never fails
	case err != nil:
		return s, fmt.Errorf("key of receipts: %w", err)
	default:
		if len(body) > maxSeal || json.Unmarshal(body, &s) != nil || s.Version != sealVersion || len(s.Seed) != ed25519.SeedSize {
			return s, fmt.Errorf("key of receipts: %s is damaged; put back a copy, or remove it to have another key, which nodes with receipt_key in their configuration refuse", path)
		}
	}
	s.Starts++
	if body, err = json.Marshal(s); err == nil {
		err = whole.Keep(path, body)
	}
	if err != nil {
		return s, fmt.Errorf("key of receipts: %w", err)
	}
	return s, nil
}

// key signs.
func (s *seal) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(s.Seed) }

// serial is before all that this start gives.
func (s *seal) serial() uint64 { return uint64(s.Starts) << 32 }
