package shim

import (
	"fmt"
	"os"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxOptions bounds a runtime's options file.
const maxOptions = 1 << 20

// runcOptions turns the options of a task into those of runc. containerd's CRI plugin knows
// no other runtime's options than runc's by type and hands ours on as TOML; what
// is not converted makes upstream panic, and a lost SystemdCgroup breaks a node.
// decode reads that TOML.
func runcOptions(asked *anypb.Any, decode func([]byte) (*options.Options, error)) (*anypb.Any, error) {
	if asked == nil || len(asked.Value) == 0 {
		return asked, nil
	}
	v, err := typeurl.UnmarshalAny(asked)
	if err != nil {
		return nil, fmt.Errorf("runtime options of type %s: %w: %w", asked.TypeUrl, err, errdefs.ErrInvalidArgument)
	}
	var body []byte
	switch o := v.(type) {
	case *options.Options:
		return asked, nil
	case *runtimeoptions.Options:
		if body, err = optionsBody(o); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("runtime options of type %s: want those of runc or TOML: %w", asked.TypeUrl, errdefs.ErrInvalidArgument)
	}
	converted, err := decode(body)
	if err != nil {
		return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return typeurl.MarshalAnyToProto(converted)
}

// optionsBody is the TOML of runtime options: in a file, or as it came.
func optionsBody(o *runtimeoptions.Options) ([]byte, error) {
	if o.ConfigPath == "" {
		return o.ConfigBody, nil
	}
	info, err := os.Stat(o.ConfigPath)
	if err != nil {
		return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !info.Mode().IsRegular() || info.Size() > maxOptions {
		return nil, fmt.Errorf("runtime options: %s is not a file of at most %d bytes: %w", o.ConfigPath, maxOptions, errdefs.ErrInvalidArgument)
	}
	body, err := os.ReadFile(o.ConfigPath)
	if err != nil {
		return nil, fmt.Errorf("runtime options: %w", err)
	}
	return body, nil
}
