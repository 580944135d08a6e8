package shim

import (
	"os"
	"runtime"
)

// goProcessors is the environment variable with which Go programs are told how many processors to use.
const goProcessors = "GOMAXPROCS"

// fitProcessors says how many processors the shim and the runc commands it starts
// use. containerd starts every shim with GOMAXPROCS=4, which runc inherits: on a smaller machine
// that only adds threads, and to a command like runc, one step after the other for 20 ms, so does
// more than one. A container's life costs 2.6 ms of CPU less this way (docs/decisions/0009). The container
// itself, log drivers and the daemon have environments of their own.
func fitProcessors() error {
	if n := runtime.NumCPU(); n < runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(n)
	}
	return os.Setenv(goProcessors, "1")
}
