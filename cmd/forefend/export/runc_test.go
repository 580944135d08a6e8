//go:build cgo

package export

import (
	"testing"

	"github.com/opencontainers/runc/libcontainer/specconv"
)

// TestRuncReadsSeccomp has runc's own code make its configuration of the profile. It needs cgo.
func TestRuncReadsSeccomp(t *testing.T) {
	text, err := Write("oci-seccomp", redis())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := specconv.SetupSeccomp(decodeSeccomp(t, text)); err != nil {
		t.Error(err)
	}
}
