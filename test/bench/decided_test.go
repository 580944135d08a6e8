package main

import (
	"fmt"
	"testing"
)

func TestDecisions(t *testing.T) {
	log := `time="x" level=info msg="forefend: admit" availability=daemon id=n/a late=none mode=adaptive revision=1 run=a-1 runs=0 sealed=false took=8.451ms workload="busybox -- sh"
time="x" level=info msg="forefend: admit" availability=daemon id=n/b late=image mode=adaptive revision=1 run=b-1 runs=1 sealed=false took="646µs" workload="busybox -- sh"
time="x" level=info msg="forefend: admit" availability=daemon id=n/c late=none mode=adaptive revision=1 run=c-1 runs=1 sealed=false took=1s workload=x
`
	took, late, err := decisions(log, "n", []string{"a", "b"})
	if err != nil || fmt.Sprint(took) != "[8.451 0.646]" || late != 1 {
		t.Error(took, late, err)
	}
}
