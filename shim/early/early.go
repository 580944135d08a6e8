// Package early does what containerd's start and delete commands nearly always come to, with next to nothing of the shim.
//
// A container's life takes three processes of the shim's program: one that starts the shim, the shim, and one that cleans up after it. Most
// of what the first and the last cost is setting up two hundred packages that only the shim itself needs (decision 0090). So the command
// package has Run called while few are set up, and the standard library and protobuf's wire format are all that may be imported here; the import
// law sees to it. (Not all of that library either: path/filepath is set up late.)
//
// Run does what it is sure of, as upstream would do it, and leaves the rest to upstream: what it does not know, and what goes wrong before anything
// was done. Upstream then begins anew.
package early

import (
	"bytes"
	"io"
	"os"
	"strings"

	"forefend.dev/forefend/shim/internal/cmdline"
)

// maxInput bounds what containerd may write to a starting shim, in bytes, as upstream does.
const maxInput = 10 << 20

// Run does what the command line without the program's name asks for, in a process whose working directory is the container's bundle. done says that
// there is nothing left to do, which holds with an error, too. If not, rest is what standard input has for who does it.
func Run(args []string, stdin io.Reader, stdout io.Writer) (done bool, rest io.Reader, err error) {
	v, err := cmdline.Parse(args)
	if err != nil || v.ID == "" || v.Namespace == "" || v.Debug {
		return false, stdin, nil
	}
	switch v.Action {
	case "delete":
		done, err = remove(v, stdout)
		return done, stdin, err
	case "start":
		input, err := io.ReadAll(io.LimitReader(stdin, maxInput))
		rest = io.MultiReader(bytes.NewReader(input), stdin)
		if err != nil {
			return false, rest, nil // who reads on meets it again
		}
		done, err = start(v, input, stdout)
		return done, rest, err
	}
	return false, stdin, nil
}

// remove answers the delete command for a container of which nothing is left.
func remove(v cmdline.Invocation, stdout io.Writer) (done bool, err error) {
	cwd, err := os.Getwd()
	if err != nil {
		return false, nil
	}
	if !strings.HasSuffix(cwd, "/"+v.ID) { // a bundle has its container's name
		return false, nil
	}
	response, removed := Removed(cwd)
	if !removed {
		return false, nil
	}
	_, err = stdout.Write(response)
	return true, err
}
