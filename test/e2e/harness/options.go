package harness

// Option changes what Start sets up.
type Option func(*options)

type options struct {
	images     []string
	namespace  string
	forefend   string
	containerd string
	env        []string
	cri        bool
	restarts   bool
	version    string
}

// WithImages imports images that `make images` built, by their short names ("redis").
func WithImages(names ...string) Option {
	return func(o *options) { o.images = append(o.images, names...) }
}

// WithConfig appends TOML to the Forefend configuration, behind the keys root and state.
func WithConfig(toml string) Option {
	return func(o *options) { o.forefend += "\n" + toml }
}

// WithContainerdConfig appends TOML to containerd's configuration.
func WithContainerdConfig(toml string) Option {
	return func(o *options) { o.containerd += "\n" + toml }
}

// WithEnv adds variables ("K=V") to the environment of containerd, and thereby of shims.
func WithEnv(vars ...string) Option {
	return func(o *options) { o.env = append(o.env, vars...) }
}

// WithCRI turns containerd's CRI plugin on, with the runtime handlers runc and forefend. Containers are in CRI's own
// namespace then, and containerd in a network namespace of its own (see InNetwork), where the pods' bridge is.
func WithCRI() Option {
	return func(o *options) {
		o.cri = true
		o.namespace = criNamespace
		o.images = append(o.images, SandboxImage)
	}
}

// WithRestarts leaves containerd's restart monitor on, which brings containers up again that nerdctl gave a restart
// policy, and lets it look every second.
func WithRestarts() Option {
	return func(o *options) { o.restarts = true }
}

// WithContainerd runs another containerd than the default, with its own ctr and stock shim: a version of Engines.
// Version 1.6 brings the runc of its time too.
func WithContainerd(version string) Option {
	return func(o *options) { o.version = version }
}
