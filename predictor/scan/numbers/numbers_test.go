package numbers

import "testing"

func TestName(t *testing.T) {
	for _, c := range []struct {
		arch string
		n    int
		want string
	}{
		{"amd64", 0, "read"}, {"amd64", 59, "execve"}, {"amd64", 435, "clone3"}, {"arm64", 221, "execve"}, {"arm64", 63, "read"},
		{"amd64", 5000, ""}, {"amd64", -1, ""}, {"s390x", 1, ""},
	} {
		if got, ok := Name(c.arch, c.n); got != c.want || ok != (c.want != "") {
			t.Errorf("%s %d: %q", c.arch, c.n, got)
		}
	}
}
