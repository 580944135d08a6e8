package harness

import (
	"context"
	"os/exec"
	"path/filepath"
)

// cniPlugins is where Debian puts CNI plugins.
const cniPlugins = "/usr/lib/cni"

// Nerdctl runs nerdctl against this environment. Its data and its networks' configuration are the environment's; the
// networks themselves are of the network namespace that containerd runs in.
func (e *Env) Nerdctl(args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	return e.Run(e.NerdctlCommand(ctx, args...))
}

// NerdctlCommand is nerdctl as a command that the caller starts.
func (e *Env) NerdctlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := e.command(ctx, "nerdctl", append([]string{
		"--address", e.Address, "--namespace", e.Namespace, "--data-root", filepath.Join(e.Dir, "nerdctl"),
		"--cni-path", cniPlugins, "--cni-netconfpath", filepath.Join(e.Dir, "nerdctl-cni"),
	}, args...)...)
	// Settings of the machine's own nerdctl must not get in.
	cmd.Env = append(cmd.Env, "NERDCTL_TOML="+filepath.Join(e.Dir, "nerdctl.toml"))
	return cmd
}

// Run runs a command to its end and returns how it went. Standard output and error must not be set.
func (e *Env) Run(cmd *exec.Cmd) Result { return e.run(cmd) }
