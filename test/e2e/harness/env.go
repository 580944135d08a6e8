package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/containerd/containerd/v2/client"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/network"
)

// Env is one private containerd with its Forefend configuration.
type Env struct {
	// Dir holds everything of this environment. Its path is short: unix socket paths have to fit.
	Dir string
	// Address is containerd's gRPC socket.
	Address string
	// Namespace is the containerd namespace that Ctr and Context use. It is the base name of Dir, or
	// with WithCRI the plugin's own.
	Namespace string
	// ConfigPath is the Forefend configuration, the value of FOREFEND_CONFIG for everything that runs here.
	ConfigPath string
	// BinDir holds the binaries that `make setup build` made.
	BinDir string
	// ImageDir holds the archives that `make images` made.
	ImageDir string

	options options
	engine  engine
	lock    *os.File // held locked while the environment lives: see sweep
	before  baseline
	daemon  *containerd
	client  *client.Client
	network *enter.Namespace // nil: the machine's

	ids     containerIDs
	stopIDs context.CancelFunc
	watcher sync.WaitGroup
}

// Start sets up an environment and waits until its containerd answers. The caller must Close it. ctx limits the
// start, not the life of the environment.
func Start(ctx context.Context, opts ...Option) (*Env, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("harness: containerd needs root")
	}
	repo, err := repository()
	if err != nil {
		return nil, err
	}
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("harness: remove what an earlier run left: %w", err)
	}
	e := &Env{BinDir: filepath.Join(repo, "bin"), ImageDir: filepath.Join(repo, ".cache", "images")}
	for _, o := range opts {
		o(&e.options)
	}
	if e.engine, err = engineOf(e.options.version); err != nil {
		return nil, fmt.Errorf("harness: %w", err)
	}
	if err := e.require(); err != nil {
		return nil, err
	}
	if e.before, err = takeBaseline(); err != nil {
		return nil, err
	}
	if err := e.makeDir(); err != nil {
		return nil, err
	}
	if err := e.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("harness: %w", err), e.Close())
	}
	return e, nil
}

func (e *Env) start(ctx context.Context) error {
	if err := e.writeConfigs(); err != nil {
		return err
	}
	if e.options.cri {
		// A container in a user namespace reaches its root file system through this directory.
		if err := os.Chmod(e.Dir, 0o711); err != nil {
			return err
		}
		if err := e.writeCNI(); err != nil {
			return err
		}
		var err error
		if e.network, err = network.New(); err != nil {
			return err
		}
	}
	if err := e.startContainerd(ctx); err != nil {
		return err
	}
	for _, name := range e.options.images {
		if err := e.Import(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// require checks that what the environment needs was built.
func (e *Env) require() error {
	var missing []error
	target := "setup"
	if e.engine.dir != "" {
		target = "setup-test"
	}
	for _, path := range []string{filepath.Join(e.EngineDir(), "containerd"), filepath.Join(e.EngineDir(), "ctr"), e.binary("runc")} {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, fmt.Errorf("%w (run make %s)", err, target))
		}
	}
	for _, name := range e.options.images {
		if _, err := os.Stat(e.archive(name)); err != nil {
			missing = append(missing, fmt.Errorf("%w (run make images)", err))
		}
	}
	return errors.Join(missing...)
}

// maxTempDir is how long a temporary directory may be for a shim's socket (a 64-digit name) to fit below it.
const maxTempDir = 20

// dirPrefix starts the name of every environment's directory and namespace; digits follow.
const dirPrefix = "ff"

// makeDir creates and locks Dir.
func (e *Env) makeDir() error {
	parent := tempDir()
	for {
		dir, err := os.MkdirTemp(parent, dirPrefix)
		if err != nil {
			return err
		}
		lock, err := lockDir(dir)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // a sweep of another process took it for abandoned and removes it
		}
		if err != nil {
			return err
		}
		e.Dir, e.lock = dir, lock
		break
	}
	e.Address = filepath.Join(e.Dir, "containerd.sock")
	e.ConfigPath = filepath.Join(e.Dir, "config.toml")
	e.Namespace = e.options.namespace
	if e.Namespace == "" {
		e.Namespace = filepath.Base(e.Dir)
	}
	return nil
}

func tempDir() string {
	if dir := os.TempDir(); len(dir) <= maxTempDir {
		return dir
	}
	return "/tmp"
}

// Import imports an image that `make images` built, by its short name.
func (e *Env) Import(ctx context.Context, name string) error {
	r := e.run(e.command(ctx, "ctr", "-a", e.Address, "-n", e.Namespace, "images", "import", e.archive(name)))
	return r.Check()
}

// Image returns the full name of an image that `make images` built.
func Image(name string) string { return "docker.io/library/" + name + ":latest" }

// Probe is the path of the static test binary on this machine, for tests that bind-mount it into an image.
func (e *Env) Probe() string { return filepath.Join(e.ImageDir, "probe") }

func (e *Env) archive(name string) string { return filepath.Join(e.ImageDir, name+".tar") }

// repository finds the root of this module from the working directory: tests run in their package's directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("harness: %s is not inside the repository", dir)
		}
	}
}

// containerIDs collects the ids of all containers an environment ever had.
type containerIDs struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (c *containerIDs) add(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.all, id) {
		c.all = append(c.all, id)
	}
}

func (c *containerIDs) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// Built reports whether an image that is made only when named has been made.
func Built(name string) bool {
	repo, err := repository()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(repo, ".cache", "images", name+".tar"))
	return err == nil
}
