package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/policy"
)

// DefaultPath is the file read when EnvPath is not set.
const DefaultPath = "/etc/forefend/config.toml"

// EnvPath is the environment variable that names another file.
const EnvPath = "FOREFEND_CONFIG"

// maxFile bounds the size of a config file, which is read into memory.
const maxFile = 256 << 10

// Config is what config.toml says, complete: what the file leaves out has its
// default.
type Config struct {
	Path string // the file read, "" when defaults

	Root  string // durable data
	State string // sockets and run data

	OnUnavailable string  // last-known, open or closed
	Privileged    string  // as-asked or govern
	ReadonlyRoot  bool    // the site allows a read-only root where history shows no writes
	UnseenEgress  float64 // mode enforce denies destinations never reached where one is needed with at most this probability; 0: never
	LogLevel      string  // of the daemon: error, warn, info or debug
	LogFormat     string  // of the daemon: text or json

	Deadlines  Deadlines
	Sample     time.Duration // between two readings of a container's usage
	Checkpoint time.Duration // between two records of a running container
	Collect    time.Duration // how long what a dead shim left is containerd's to remove
	History    History
	Prediction Prediction
	Phases     Phases
	Airbag     Airbag
	Scan       Scan
	Agent      Agent
	Threats    Threats
	Safeguards Safeguards
	Egress     Egress
	Metrics    Metrics
	Tunnels    []Tunnel

	Site policy.Site // mode, [defaults], [guardrails], [conflicts], [[profile]]
}

// Deadlines say how long the creation of a container waits for what.
type Deadlines struct {
	Admit     time.Duration // a running daemon's answer
	ColdStart time.Duration // a daemon that has to be started
	Predict   time.Duration // all sources of evidence together, part of Admit
}

// History bounds what is kept of past runs.
type History struct {
	RunsPerWorkload int
	MaxAge          time.Duration
	MaxBytes        int64
}

// Prediction is how cautious predictions are.
type Prediction struct {
	Coverage float64 // of the predicted bounds: 0.99 means that 1 run in 100 may exceed one
	Seal     float64 // sealed when the probability of an unseen call is at most this
	MinRuns  int     // runs before which nothing is sealed
	Priors   string  // file of what another node learned, "": none
}

// Phases is what is made of what a workload does once it serves.
type Phases struct {
	Runs   int           // that have served, before what none of them did meanwhile is refused to a serving workload; 0: never
	Served time.Duration // how long a run must have served to count
	Quiet  time.Duration // a server that gives no signal serves when it has started nothing for so long
}

// Airbag is how predicted memory limits are raised before they are reached.
type Airbag struct {
	Enabled bool  // else a predicted memory limit is soft
	MinRuns int   // of a workload, before its predicted memory limit is a hard one
	Reserve int64 // bytes of memory that the node keeps
	// Calm is how long a limit that was raised must have had room to spare before it is lowered again.
	Calm time.Duration
}

// Scan is how images are analysed before they run.
type Scan struct {
	Enabled       bool
	FirstScanWait time.Duration // how long a container may wait for the first scan of what it runs; 0: not at all
	Timeout       time.Duration // of one scan
	Memory        int64         // of one scan, bytes
	Cache         int64         // of all results kept, bytes
	OSV           string        // directory or zip of vulnerability data; "": none
	Exploited     []string      // files that say which vulnerabilities are exploited
}

// Agent is how control agents come into containers.
type Agent struct {
	Delay time.Duration // how long a container runs before it gets its agent; 0: it gets it before it starts
}

// Metrics is where the figures of the daemon, or of a gateway, can be read.
type Metrics struct {
	Listen string // "unix", "unix:PATH", "HOST:PORT" on the loopback interface, or "off"
}

// What a shim does when no daemon answers (Config.OnUnavailable).
const (
	LastKnown = "last-known" // the workload's sealed policy file, else the site's default
	Open      = "open"       // the container runs as stock runc would run it
	Closed    = "closed"     // no container is created
)

// What happens to a privileged container (Config.Privileged).
const (
	AsAsked = "as-asked" // it is left alone
	Govern  = "govern"   // it is treated like every other
)

// Default returns the configuration of a node without a config file.
func Default() *Config {
	return &Config{
		Root:          "/var/lib/forefend",
		State:         "/run/forefend",
		OnUnavailable: LastKnown,
		Privileged:    AsAsked,
		LogLevel:      "info",
		LogFormat:     "text",
		Deadlines:     Deadlines{Admit: 100 * time.Millisecond, ColdStart: 10 * time.Second, Predict: 50 * time.Millisecond},
		Sample:        time.Second,
		Checkpoint:    10 * time.Second,
		Collect:       time.Minute,
		History:       History{RunsPerWorkload: 64, MaxAge: 90 * day, MaxBytes: 1 << 30},
		Prediction:    Prediction{Coverage: 0.99, Seal: 0.2, MinRuns: 4},
		Phases:        Phases{Runs: 5, Served: time.Minute, Quiet: 2 * time.Second},
		Airbag:        Airbag{MinRuns: 5, Reserve: 256 << 20, Calm: 10 * time.Minute},
		Scan:          Scan{Enabled: true, FirstScanWait: 2 * time.Second, Timeout: 30 * time.Second, Memory: 512 << 20, Cache: 256 << 20},
		Agent:         Agent{Delay: time.Second},
		Threats:       Threats{HalfLife: 30 * day, Feeds: []string{"/etc/forefend/feeds"}},
		Safeguards:    defaultSafeguards(),
		Egress:        Egress{PDP: PDPLocal, Default: flow.Profile{Deny: true}, Grace: 30 * time.Second, Interception: defaultInterception()},
		Metrics:       Metrics{Listen: metricsUnix},
		Site: policy.Site{
			Claims: []policy.Claim{modeClaim(policy.ModeAdaptive, "forefend")},
			Prefer: defaultPrefer(),
		},
	}
}

func defaultPrefer() map[policy.Dimension]policy.Prefer {
	out := make(map[policy.Dimension]policy.Prefer)
	for _, d := range policy.Dimensions {
		out[d] = policy.DefaultPrefer(d)
	}
	return out
}

// modeReasons says what each mode means, for explain.
var modeReasons = map[policy.Value]string{
	policy.ModeEnforce:  "surprises are denied",
	policy.ModeAdaptive: "benign surprises are allowed and learned",
	policy.ModeObserve:  "guardrails only, the rest is recorded",
}

func modeClaim(mode policy.Value, source string) policy.Claim {
	return policy.Claim{Key: policy.KeyMode, Value: mode, Origin: policy.Origin{Author: policy.Default, Source: source, Reason: modeReasons[mode]}}
}

// FromEnv loads the file that EnvPath names, else the one at DefaultPath.
// Only the latter may be missing: then the configuration is Default.
func FromEnv() (*Config, error) {
	if path := os.Getenv(EnvPath); path != "" {
		c, err := Load(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", EnvPath, err)
		}
		return c, nil
	}
	c, err := Load(DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	return c, err
}

// Load reads the config file at path. What is wrong with its content comes as
// Problems; a missing file matches fs.ErrNotExist.
func Load(path string) (*Config, error) { return load(path, parse) }

// load reads a file and has it parsed under its absolute path.
func load[T any](path string, parse func(string, []byte) (*T, Problems)) (*T, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("config file %s: %w", path, err)
	}
	data, err := read(abs)
	if err != nil {
		return nil, err
	}
	c, problems := parse(abs, data)
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// Check returns everything that is wrong with the config file at path. The
// error is not nil only when the file cannot be read at all.
func Check(path string) ([]Problem, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	_, problems := parse(path, data)
	return problems, nil
}

func read(path string) ([]byte, error) { return readAtMost(path, maxFile) }

func readAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("config file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("config file: %w", err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("config file %s has more than %d KiB", path, most>>10)
	}
	return data, nil
}
