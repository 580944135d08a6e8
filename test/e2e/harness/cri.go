package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// SandboxImage is what pods are made of under WithCRI.
const SandboxImage = "pause"

// network of the pods: one bridge, inside the environment's private network namespace, so that every environment may
// use the same addresses and nothing of it outlives the environment.
const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": %q,
        "ranges": [[{"subnet": "10.88.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

func (e *Env) writeCNI() error {
	dir := filepath.Join(e.Dir, cniDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	config := fmt.Sprintf(cniConfig, filepath.Join(e.Dir, "ipam"))
	return os.WriteFile(filepath.Join(dir, "10-pods.conflist"), []byte(config), 0o600)
}

// criTables writes the part of containerd's configuration for CRI: handler runc, the default, and
// nothing outside the environment's directory.
func (g engine) criTables(dir string, table func(name string, lines ...string)) {
	runtime, images := "plugins.'"+g.cri+"'", "plugins.'io.containerd.cri.v1.images'"
	settings := []string{"restrict_oom_score_adj = true", "netns_mounts_under_state_dir = true"}
	image, registry, bin := Image(SandboxImage), strconv.Quote(filepath.Join(dir, registryDir)), "bin_dirs = [%q]"
	if g.version == "2.0" {
		bin = "bin_dir = %q"
	}
	if g.cri == criOld {
		settings, images, bin = append(settings, "sandbox_image = "+strconv.Quote(image)), runtime, "bin_dir = %q"
	} else {
		table(images+".pinned_images", "sandbox = "+strconv.Quote(image))
	}
	table(images+".registry", "config_path = "+registry)
	table(runtime, settings...)
	table(runtime+".cni", fmt.Sprintf(bin, cniPlugins), "conf_dir = "+strconv.Quote(filepath.Join(dir, cniDir)))
	table(runtime+".containerd", "default_runtime_name = 'runc'")
	table(runtime+".containerd.runtimes.runc", "runtime_type = 'io.containerd.runc.v2'")
}

// handlerSnippet reads what we tell operators to add to this containerd's configuration: the handler forefend. Every
// test of CRI is thereby one of that file, too.
func (e *Env) handlerSnippet() (string, error) {
	name := "containerd-2.toml"
	if e.engine.cri == criOld {
		name = "containerd-1.7.toml"
	}
	body, err := os.ReadFile(filepath.Join(filepath.Dir(e.BinDir), "deploy", "kubernetes", name))
	return string(body), err
}

// Directories of an environment that containerd's configuration names.
const (
	cniDir      = "cni"
	registryDir = "certs.d"
)

// RegistryConfig is the directory in which CRI looks for hosts.toml files when it pulls an image.
func (e *Env) RegistryConfig() string { return filepath.Join(e.Dir, registryDir) }

// DialCRI connects to the CRI services of this environment. The caller closes the connection.
func (e *Env) DialCRI() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+e.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

// removePods stops and removes every pod by CRI itself, which alone knows what to undo of their network.
func (e *Env) removePods(ctx context.Context) error {
	if !e.options.cri || e.client == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := e.DialCRI()
	if err != nil {
		return err
	}
	defer conn.Close()
	cri := runtime.NewRuntimeServiceClient(conn)
	pods, err := cri.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var failed []error
	for _, pod := range pods.Items {
		if _, err := cri.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			failed = append(failed, fmt.Errorf("stop pod %s: %w", pod.Id, err))
		}
		if _, err := cri.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			failed = append(failed, fmt.Errorf("remove pod %s: %w", pod.Id, err))
		}
	}
	return errors.Join(failed...)
}
