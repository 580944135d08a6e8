package config

import (
	"strings"
	"testing"
)

func TestRuntimeOptions(t *testing.T) {
	o, err := RuntimeOptions([]byte("TypeUrl = \"io.containerd.runc.v1.options\"\nSystemdCgroup = true\nBinaryName = \"/usr/bin/crun\"\nRoot = \"/run/r\"\nIoUid = 7\n"))
	if err != nil || !o.SystemdCgroup || o.BinaryName != "/usr/bin/crun" || o.Root != "/run/r" || o.IoUid != 7 {
		t.Errorf("got %v %v", o, err)
	}
	if o, err := RuntimeOptions(nil); err != nil || o.SystemdCgroup {
		t.Errorf("no options: %v %v", o, err)
	}
	for body, want := range map[string]string{"SystemdCgroups = true": "SystemdCgroups", "x": "line 1", "SystemdCgroup = 1": "SystemdCgroup"} {
		if _, err := RuntimeOptions([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v does not name %s", body, err, want)
		}
	}
}
