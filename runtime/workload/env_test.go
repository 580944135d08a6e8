package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestDecisiveEnv(t *testing.T) {
	got := DecisiveEnv([]string{"PATH=/bin", "LD_PRELOAD=/x.so", "PASSWORD=secret", "JAVA_OPTS=-Xmx1g -Dpassword=secret -server", "GOGC", "HOME=/",
		"PYTHONPATH=" + strings.Repeat("x", maxVariable)})
	if want := []string{"LD_PRELOAD=/x.so", "JAVA_OPTS=-Xmx1g -server"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("GOGC=%d", i))
	}
	if n := len(DecisiveEnv(many)); n != maxEnv {
		t.Errorf("%d variables", n)
	}
}
