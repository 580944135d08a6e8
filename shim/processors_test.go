package shim

import (
	"os"
	"runtime"
	"testing"
)

func TestFitProcessors(t *testing.T) {
	t.Setenv(goProcessors, "4") // as containerd does; t puts it back
	before := runtime.GOMAXPROCS(2 * runtime.NumCPU())
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	if err := fitProcessors(); err != nil {
		t.Fatal(err)
	}
	if got := runtime.GOMAXPROCS(0); got != runtime.NumCPU() {
		t.Errorf("%d processors, the machine has %d", got, runtime.NumCPU())
	}
	if got := os.Getenv(goProcessors); got != "1" {
		t.Errorf("runc would inherit %q", got)
	}
}
