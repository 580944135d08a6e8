//go:build cgo

package rewrite

import (
	"maps"
	"testing"

	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestAlwaysOpen: the list is runc's.
func TestAlwaysOpen(t *testing.T) {
	got := make(map[string]string)
	for _, d := range specconv.AllowedDevices {
		r := specs.LinuxDeviceCgroup{Type: string(d.Type), Major: &d.Major, Minor: &d.Minor}
		device, ok := deviceOf(r)
		if !ok {
			t.Errorf("%v", d)
		}
		got[device.String()] = string(d.Permissions)
	}
	if !maps.Equal(got, alwaysOpen) {
		t.Errorf("runc: %v\nhere: %v", got, alwaysOpen)
	}
}
