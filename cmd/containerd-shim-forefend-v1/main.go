// Command containerd-shim-forefend-v1 is the containerd shim of the runtime
// io.containerd.forefend.v1. containerd starts it; FOREFEND_CONFIG in
// containerd's environment names another config file than the default one.
package main

import (
	"context"
	"fmt"
	"os"

	"forefend.dev/forefend/cmd/containerd-shim-forefend-v1/first"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/shim"
)

// version is set by the linker.
var version = "unknown"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" { // for people and forefend doctor; containerd never asks like that
		fmt.Printf("containerd-shim-forefend-v1 %s (api %d)\n", version, api.Version)
		return
	}
	if err := shim.Run(context.Background(), configure(), first.Input); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", shim.Name, err)
		os.Exit(1)
	}
}
