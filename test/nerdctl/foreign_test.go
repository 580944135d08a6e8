package nerdctl

import (
	"slices"
	"testing"
)

func TestForeign(t *testing.T) {
	const mountinfo = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:20 / /tmp rw - tmpfs tmpfs rw
31 30 0:21 / /tmp/ff1/state/task/web/rootfs rw shared:9 master:1 - overlay overlay rw
32 22 0:4 net:[4026532280] /run/netns/a rw - nsfs nsfs rw
33 22 0:22 / /tmp/ff/w rw - tmpfs tmpfs rw
garbage
`
	want := []string{"/run/netns/a", "/tmp/ff1/state/task/web/rootfs"}
	if got := foreign(mountinfo); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
