// Command forefend-agent is Forefend's process in the network namespace of a container. Shims start it, with its channel on
// descriptor 3 and the channel's key on descriptor 4; people have no use for it.
package main

import (
	"fmt"
	"os"

	"forefend.dev/forefend/agent"
	api "forefend.dev/forefend/agent/api/v1"
)

// version is set by the linker.
var version = "unknown"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Printf("forefend-agent %s (api %d)\n", version, api.Version)
		return
	}
	var intercepting func(agent.Asker) (agent.Interceptor, error)
	if len(os.Args) == 2 && os.Args[1] == api.InterceptArg {
		intercepting = newInterceptor
	}
	if err := agent.Run(version, intercepting); err != nil {
		fmt.Fprintln(os.Stderr, "forefend-agent:", err)
		os.Exit(1)
	}
}
