// Package first is set up before most packages of the shim, and does there what package early can. The program ends in it if that is all.
//
// A Go program sets its packages up one after the other, always the one that comes first by import path of those whose imports are ready ("Program
// initialization" in the Go specification, since Go 1.21). So this one, whose imports are few, comes before those of containerd, gRPC and protobuf. Should
// that change one day nothing is lost but time: what is done here can be done at any time before main.
package first

import (
	"io"
	"os"

	"forefend.dev/forefend/shim/early"
)

// Input is what standard input has for main.
var Input io.Reader = os.Stdin

func init() {
	done, rest, err := early.Run(os.Args[1:], os.Stdin, os.Stdout)
	if err != nil {
		_, _ = os.Stderr.WriteString("io.containerd.forefend.v1: " + err.Error() + "\n") // nobody is left to tell
		os.Exit(1)
	}
	if done {
		os.Exit(0)
	}
	Input = rest
}
