package link

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestWhole: a list that changed under who reads it is read again, and any other error is one.
func TestWhole(t *testing.T) {
	for _, c := range []struct {
		interrupted int
		then        error
		asked       int
	}{
		{0, nil, 1},
		{3, nil, 4},
		{2, unix.EPERM, 3},
		{1000, nil, lists},
	} {
		asked := 0
		all, err := Whole(func() ([]string, error) {
			if asked++; asked <= c.interrupted {
				return []string{"a"}, fmt.Errorf("links: %w", netlink.ErrDumpInterrupted)
			}
			return []string{"a", "b"}, c.then
		})
		want := c.then
		if c.interrupted >= lists {
			want = netlink.ErrDumpInterrupted
		}
		if asked != c.asked || !errors.Is(err, want) || err == nil && len(all) != 2 {
			t.Errorf("interrupted %d times, then %v: asked %d times, %q, %v", c.interrupted, c.then, asked, all, err)
		}
	}
}
