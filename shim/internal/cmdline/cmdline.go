// Package cmdline reads the command line with which containerd starts a shim. It is of those that run before the rest of the shim is
// set up (package early): it imports little.
package cmdline

import (
	"flag"
	"io"
)

// Invocation is how a containerd started this process.
type Invocation struct {
	Action    string // "start", "delete"; "": serve
	ID        string // of the container
	Namespace string
	Address   string // containerd's GRPC address
	Publisher string // containerd's binary
	Debug     bool
}

// Parse reads a shim's command line without the program's name. Flags of other actions are accepted and ignored.
func Parse(args []string) (Invocation, error) {
	var v Invocation
	f := flag.NewFlagSet("shim", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&v.ID, "id", "", "")
	f.StringVar(&v.Namespace, "namespace", "", "")
	f.StringVar(&v.Address, "address", "", "")
	f.StringVar(&v.Publisher, "publish-binary", "", "")
	f.BoolVar(&v.Debug, "debug", false, "")
	for _, ignored := range []string{"socket", "debug-socket", "bundle"} {
		f.String(ignored, "", "")
	}
	for _, ignored := range []string{"v", "version", "info"} {
		f.Bool(ignored, false, "")
	}
	if err := f.Parse(args); err != nil {
		return v, err
	}
	v.Action = f.Arg(0)
	return v, nil
}
