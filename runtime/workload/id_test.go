package workload

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"web", "default/web"},
		{"k8s.io/0a1b", "k8s.io/0a1b"},
		{"my_ns/a-b.c_D", "my_ns/a-b.c_D"},
		{strings.Repeat("n", 76) + "/" + strings.Repeat("c", 76), strings.Repeat("n", 76) + "/" + strings.Repeat("c", 76)},
		{"", ""},
		{"/web", ""},
		{"ns/", ""},
		{"..", ""},
		{"ns/..", ""},
		{"./web", ""},
		{"a/b/c", ""},
		{"ns/../../etc/passwd", ""},
		{"we b", ""},
		{"web\n", ""},
		{"web\x00", ""},
		{"web\x1b[2J", ""},
		{"wéb", ""},
		{"\xff", ""},
		{strings.Repeat("c", 129), ""},
		{strings.Repeat("n", 129) + "/web", ""},
	} {
		id, err := ParseID(c.text, "default")
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%.40q is accepted as %v", c.text, id)
		case c.want != "" && (err != nil || id.String() != c.want):
			t.Errorf("%.40q is %v, %v", c.text, id, err)
		}
	}
	if _, err := ParseID("web", ""); err == nil || !strings.Contains(err.Error(), "namespace is empty") {
		t.Errorf("without a namespace: %v", err)
	}
}

// FuzzParseID looks for an id that is valid and yet leaves its directory.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{"web", "k8s.io/0a1b", "..", "a/../b", "\x00", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s, "default")
		if err != nil {
			return
		}
		path := filepath.Join("/run/c", id.Namespace, id.Container)
		if path != "/run/c/"+id.String() || filepath.Dir(filepath.Dir(path)) != "/run/c" {
			t.Errorf("%q leads to %s", s, path)
		}
		if back, err := ParseID(id.String(), "other"); err != nil || back != id {
			t.Errorf("%q prints as %s, which is %v, %v", s, id, back, err)
		}
	})
}
