package config

import (
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/containerd/containerd/api/types/runc/options"
)

// RuntimeOptions reads runc's options from the TOML that containerd hands to
// runtimes it does not know: [plugins.….runtimes.forefend.options]. Keys are those of
// the runc runtime, such as SystemdCgroup, and those that containerd itself reads there; another key is an error.
func RuntimeOptions(body []byte) (*options.Options, error) {
	var known struct {
		NoPivotRoot, NoNewKeyring   bool
		ShimCgroup                  string
		IoUid, IoGid                uint32
		BinaryName, Root            string
		SystemdCgroup               bool
		CriuImagePath, CriuWorkPath string
		CriuPath                    string // of containerd 1.x, without effect since
		TypeUrl                     string // containerd's own: with this it names what the table holds
		ConfigPath, ConfigBody      string // and with these hands on something else instead of the table
	}
	meta, err := toml.Decode(string(body), &known)
	if err != nil {
		return nil, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		names := make([]string, len(unknown))
		for i, k := range unknown {
			names[i] = k.String()
		}
		return nil, fmt.Errorf("%s: not an option of runc", strings.Join(names, ", "))
	}
	return &options.Options{
		NoPivotRoot: known.NoPivotRoot, NoNewKeyring: known.NoNewKeyring, ShimCgroup: known.ShimCgroup,
		IoUid: known.IoUid, IoGid: known.IoGid, BinaryName: known.BinaryName, Root: known.Root,
		SystemdCgroup: known.SystemdCgroup, CriuImagePath: known.CriuImagePath, CriuWorkPath: known.CriuWorkPath,
	}, nil
}
