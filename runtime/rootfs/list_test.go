package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	upper := build(t, map[string]string{"etc/new": "1", "etc/gone": "whiteout", "etc/both": "->x", "only/": ""})
	lower := build(t, map[string]string{"etc/gone": "1", "etc/both": "1", "etc/old/": "", "lib": "->etc", "file": "1"})
	tree := Open([]string{upper, lower})
	for _, c := range []struct {
		name, want, resolved string
		err                  error
	}{
		{"/etc", "both=L new=- old=d", "/etc", nil},
		{"/lib", "both=L new=- old=d", "/etc", nil},
		{"/", "etc=d file=- lib=L only=d", "/", nil},
		{"/only", "", "/only", nil},
		{"/file", "", "", fs.ErrInvalid},
		{"/missing", "", "", fs.ErrNotExist},
	} {
		entries, resolved, err := tree.List(c.name)
		var got []string
		for _, e := range entries {
			got = append(got, fmt.Sprintf("%s=%c", e.Name, e.Type.String()[0]))
		}
		if strings.Join(got, " ") != c.want || resolved != c.resolved || !errors.Is(err, c.err) {
			t.Errorf("%s: %v in %q, %v", c.name, got, resolved, err)
		}
	}
}
