// Package bootstrap lets a shim built on containerd 2.4 be started by older
// daemons. Since 2.3 a daemon writes bootstrap parameters, a protobuf, to the
// shim's standard input and reads one back. Before that it passes flags and the
// runtime options; 2.0 to 2.2 read JSON, 1.x the bare address of the shim's
// socket, which the shim has to leave in the bundle too.
//
// Translate stands in front of the shim's main. It touches standard input and
// output of the process, and its working directory (the bundle), for the start
// command only, and is for main packages.
package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/shim/internal/cmdline"
)

// maxInput bounds what a daemon may write to a starting shim, as upstream does.
const maxInput = 10 << 20

// invocation is how a daemon started this process.
type invocation struct{ cmdline.Invocation }

// Translate runs main, which must be a shim of containerd 2.4 that reads
// os.Stdin and writes os.Stdout. in is what standard input has. When an older daemon asks it to start, main is given
// the parameters that daemon did not send, and the daemon the address it expects.
func Translate(args []string, in io.Reader, main func()) error {
	parsed, err := cmdline.Parse(args)
	v := invocation{parsed}
	if err != nil || v.Action != "start" {
		main() // it reports what is wrong with the flags
		return nil
	}
	input, err := io.ReadAll(io.LimitReader(in, maxInput))
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
	return len(input) > 0 && proto.Unmarshal(input, &p) == nil && p.InstanceID == v.ID && p.Namespace == v.Namespace
}

// params are the bootstrap parameters an older daemon would have sent.
func (v invocation) params(input []byte) ([]byte, error) {
	p := &bootapi.BootstrapParams{
		InstanceID: v.ID, Namespace: v.Namespace, ContainerdGrpcAddress: v.Address,
		ContainerdTtrpcAddress: os.Getenv("TTRPC_ADDRESS"), ContainerdBinary: v.Publisher,
	}
	if v.Debug {
		p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	var sent anypb.Any
	if len(input) > 0 && proto.Unmarshal(input, &sent) == nil && sent.TypeUrl != "" {
		if err := p.AddExtension(&sent); err != nil {
			return nil, fmt.Errorf("runtime options: %w", err)
		}
	}
	body, err := proto.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("bootstrap parameters: %w", err)
	}
	return body, nil
}

// answer runs main and prints the address it came up with, as the daemon that
// asked expects it.
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
	if err := writeAddress(result.Address); err != nil {
		return err
	}
	reply := []byte(result.Address)
	if readsJSON() {
		if reply, err = json.Marshal(jsonResult{Version: int(result.Version), Address: result.Address, Protocol: result.Protocol}); err != nil {
			return fmt.Errorf("answer the daemon: %w", err)
		}
	}
	if _, err = stdout.Write(reply); err != nil {
		return fmt.Errorf("answer the daemon: %w", err)
	}
	return nil
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
