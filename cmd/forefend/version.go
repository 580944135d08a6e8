package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// versionInfo is what `forefend version --json` prints.
type versionInfo struct {
	Version string `json:"version"`
	API     int    `json:"api"` // of the daemon's contract
	Go      string `json:"go"`
	Arch    string `json:"arch"`
}

func newVersionCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo{Version: version, API: api.Version, Go: runtime.Version(), Arch: runtime.GOARCH}
			if asJSON {
				return output.JSON(a.stdout, v)
			}
			_, err := fmt.Fprintf(a.stdout, "forefend %s (api %d, %s, %s)\n", v.Version, v.API, v.Go, v.Arch)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
