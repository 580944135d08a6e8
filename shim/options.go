package shim

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxOptions bounds a runtime's options file.
const maxOptions = 1 << 20

// runcOptions turns the options of a task into those of runc. containerd's clients and its CRI plugin know
// no other runtime's options than runc's by type and hand ours on as TOML, or as the options of a runtime long gone;
// what is not converted makes upstream panic, and a lost SystemdCgroup breaks a node.
// decode reads that TOML. Options that say nothing become none.
func runcOptions(asked *anypb.Any, decode func([]byte) (*options.Options, error)) (*anypb.Any, error) {
	if asked == nil || asked.TypeUrl == "" {
		return nil, nil
	}
	if len(asked.Value) == 0 {
		if typeName(asked) == string((*options.Options)(nil).ProtoReflect().Descriptor().FullName()) {
			return asked, nil
		}
		return nil, nil
	}
	if typeName(asked) == legacyOptions {
		converted, err := fromLegacy(asked.Value)
		if err != nil {
			return nil, err
		}
		return typeurl.MarshalAnyToProto(converted)
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

// typeName is the name of the type in a type URL.
func typeName(a *anypb.Any) string { return a.TypeUrl[strings.LastIndexByte(a.TypeUrl, '/')+1:] }

// A CRI plugin before 1.7 reads the options of a runtime it does not know into
// this type, which has no place for runc's: nothing of them arrives.
func lostOptions(asked *anypb.Any) bool {
	return asked != nil && typeName(asked) == "runtimeoptions.v1.Options" && len(asked.Value) == 0
}

// slicePath is a cgroup path of the systemd driver: slice, prefix and name.
var slicePath = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[^/:]+\.slice:[^/:]*:[^/:]+$`) })

// driverOfPath replaces options that were lost by what the spec tells of them:
// the CRI plugin writes cgroup paths of this form for the systemd driver alone, and the
// other would take one for a name.
func driverOfPath(spec *specs.Spec) (*anypb.Any, error) {
	if spec.Linux == nil || !slicePath().MatchString(spec.Linux.CgroupsPath) {
		return nil, nil
	}
	return typeurl.MarshalAnyToProto(&options.Options{SystemdCgroup: true})
}

// legacyOptions is what clients of containerd 1.x send to every runtime whose name does not begin with
// io.containerd.runc, for a user namespace or --no-pivot, say.
const legacyOptions = "containerd.linux.runc.CreateOptions"

// fromLegacy reads the fields of legacyOptions that the runc shim has an option for; no module that
// containerd 2 uses defines the type any more. The others are for restoring checkpoints and had no effect here.
func fromLegacy(body []byte) (*options.Options, error) {
	var o options.Options
	for len(body) > 0 {
		field, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil, fmt.Errorf("runtime options of type %s: %w: %w", legacyOptions, protowire.ParseError(n), errdefs.ErrInvalidArgument)
		}
		body = body[n:]
		var number uint64
		var text []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(body)
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(body)
		default:
			n = protowire.ConsumeFieldValue(field, kind, body)
		}
		if n < 0 {
			return nil, fmt.Errorf("runtime options of type %s: %w: %w", legacyOptions, protowire.ParseError(n), errdefs.ErrInvalidArgument)
		}
		body = body[n:]
		switch field {
		case 1:
			o.NoPivotRoot = number != 0
		case 8:
			o.NoNewKeyring = number != 0
		case 9:
			o.ShimCgroup = string(text)
		case 10:
			o.IoUid = uint32(number)
		case 11:
			o.IoGid = uint32(number)
		case 12:
			o.CriuWorkPath = string(text)
		case 13:
			o.CriuImagePath = string(text)
		}
	}
	return &o, nil
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
