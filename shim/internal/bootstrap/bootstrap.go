// Package bootstrap lets a shim built on containerd 2.4 be started by older
// daemons. Since 2.3 a daemon writes bootstrap parameters, a protobuf, to the
// shim's standard input and reads one back; before that it passes flags and the
// runtime options, and reads the bare address of the shim's socket.
//
// Translate stands in front of the shim's main. It touches standard input and
// output of the process, for the start command only, and is for main packages.
package bootstrap

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxInput bounds what a daemon may write to a starting shim, as upstream does.
const maxInput = 10 << 20

// invocation is how a daemon started this process.
type invocation struct {
	action, id, namespace, address, publisher string
	debug                                     bool
}

// parse reads a shim's command line. Flags of other actions are accepted and ignored.
func parse(args []string) (invocation, error) {
	var v invocation
	f := flag.NewFlagSet("shim", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&v.id, "id", "", "")
	f.StringVar(&v.namespace, "namespace", "", "")
	f.StringVar(&v.address, "address", "", "")
	f.StringVar(&v.publisher, "publish-binary", "", "")
	f.BoolVar(&v.debug, "debug", false, "")
	for _, ignored := range []string{"socket", "debug-socket", "bundle"} {
		f.String(ignored, "", "")
	}
	for _, ignored := range []string{"v", "version", "info"} {
		f.Bool(ignored, false, "")
	}
	if err := f.Parse(args); err != nil {
		return v, err
	}
	v.action = f.Arg(0)
	return v, nil
}

// Translate runs main, which must be a shim of containerd 2.4 that reads
// os.Stdin and writes os.Stdout. When an older daemon asks it to start, main is given
// the parameters that daemon did not send, and the daemon the address it expects.
func Translate(args []string, main func()) error {
	v, err := parse(args)
	if err != nil || v.action != "start" {
		main() // it reports what is wrong with the flags
		return nil
	}
	input, err := io.ReadAll(io.LimitReader(os.Stdin, maxInput))
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	old := !v.sent(input)
	if old {
		if input, err = v.params(input); err != nil {
			return err
		}
	}
	stdin, err := memoryFile("stdin", input)
	if err != nil {
		return err
	}
	defer stdin.Close()
	os.Stdin = stdin
	if !old {
		main()
		return nil
	}
	return v.answer(main)
}

// sent reports whether input is a newer daemon's bootstrap parameters. Runtime
// options can decode as such, so the identity has to agree with the flags.
func (v invocation) sent(input []byte) bool {
	var p bootapi.BootstrapParams
	return len(input) > 0 && proto.Unmarshal(input, &p) == nil && p.InstanceID == v.id && p.Namespace == v.namespace
}

// params are the bootstrap parameters an older daemon would have sent.
func (v invocation) params(input []byte) ([]byte, error) {
	p := &bootapi.BootstrapParams{
		InstanceID: v.id, Namespace: v.namespace, ContainerdGrpcAddress: v.address,
		ContainerdTtrpcAddress: os.Getenv("TTRPC_ADDRESS"), ContainerdBinary: v.publisher,
	}
	if v.debug {
		p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	var sent anypb.Any
	var runc options.Options
	if len(input) > 0 && proto.Unmarshal(input, &sent) == nil && sent.TypeUrl == string(runc.ProtoReflect().Descriptor().FullName()) {
		if err := proto.Unmarshal(sent.Value, &runc); err != nil {
			return nil, fmt.Errorf("runtime options: %w", err)
		}
		if err := p.AddExtension(&runc); err != nil {
			return nil, fmt.Errorf("runtime options: %w", err)
		}
	}
	body, err := proto.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("bootstrap parameters: %w", err)
	}
	return body, nil
}

// answer runs main and prints the bare address it came up with.
func (v invocation) answer(main func()) error {
	stdout := os.Stdout
	captured, err := memoryFile("stdout", nil)
	if err != nil {
		return err
	}
	defer captured.Close()
	os.Stdout = captured
	main()
	os.Stdout = stdout
	body, err := io.ReadAll(io.NewSectionReader(captured, 0, maxInput))
	if err != nil {
		return fmt.Errorf("read the shim's answer: %w", err)
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(body, &result); err != nil {
		return fmt.Errorf("the shim's answer: %w", err)
	}
	if result.Address == "" {
		return errors.New("the shim's answer has no address")
	}
	_, err = io.WriteString(stdout, result.Address)
	return err
}

// memoryFile is a file without a name, positioned at its start.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory file for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("memory file for %s: %w", name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("memory file for %s: %w", name, err)
	}
	return f, nil
}
