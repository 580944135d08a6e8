package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
)

const exampleFile = "../../../config.toml.example"

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t *testing.T, content string) *Config {
	t.Helper()
	c, err := Load(write(t, content))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// withoutPlace removes what says where a value was read, all that may differ
// between the example and the defaults.
func withoutPlace(c *Config) *Config {
	c.Path = ""
	for i := range c.Site.Claims {
		c.Site.Claims[i].Source = ""
	}
	return c
}

func TestExampleEqualsDefault(t *testing.T) {
	c, err := Load(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := withoutPlace(c), withoutPlace(Default()); !reflect.DeepEqual(got, want) {
		t.Errorf("config.toml.example is\n%+v\nDefault is\n%+v", got, want)
	}
	empty := mustLoad(t, "")
	if got, want := withoutPlace(empty), withoutPlace(Default()); !reflect.DeepEqual(got, want) {
		t.Errorf("an empty file is\n%+v\nDefault is\n%+v", got, want)
	}
}

// TestExampleShowsEveryKey turns the examples in the comments into settings,
// so that they are known to be right, and looks for keys nobody explains.
func TestExampleShowsEveryKey(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "#   "); ok {
			line = rest
		}
		b.WriteString(line)
	}
	// The commented keys stand above their table's header: move the headers up.
	text := b.String()
	for _, header := range []string{"[defaults]", "[guardrails]"} {
		text = strings.Replace(text, "\n"+header+"\n", "\n", 1)
	}
	text = strings.Replace(text, `memory = "512Mi"  `, "[defaults]\n"+`memory = "512Mi"  `, 1)
	text = strings.Replace(text, "memory = { min", "[guardrails]\nmemory = { min", 1)
	text = strings.Replace(text, "\nrules = \"\"\n", "\nrules = \"/etc/forefend/rules\"\n", 1) // [egress.serve] needs some
	c := mustLoad(t, text)

	seen := make(map[policy.Key]bool)
	for _, claim := range c.Site.Claims {
		family, _ := claim.Key.Family()
		seen[family] = true
	}
	for _, k := range policy.Keys() {
		if k != policy.KeySealed && k != policy.KeyRlimits && !seen[k] {
			t.Errorf("the example shows no default of %s", k)
		}
	}
	for _, name := range policy.ListNames() {
		if !strings.Contains(text, "\n"+name+" = ") {
			t.Errorf("the example shows no %s", name)
		}
	}
	if len(c.Site.Profiles) != 1 || len(c.Site.Guards) < 10 {
		t.Errorf("got %d profiles, %d guards from the examples", len(c.Site.Profiles), len(c.Site.Guards))
	}
}

var everyInterception = Interception{
	UserHeaders: []string{"x-user", "remote_user"}, Connections: 10, DecideWithin: 20 * time.Millisecond, Verify: time.Minute, ServerFirst: []int{2525},
	Names: Names{
		Resolver: netip.MustParseAddrPort("10.0.0.2:53"), Resolvers: []netip.Addr{netip.MustParseAddr("2001:db8::53")}, Services: []string{"*.dns.example"}, ECH: true, Queries: 10,
	},
	Tokens:   Tokens{Headers: []string{"x-token"}, Issuer: "i", Audience: "a", Keys: []TokenKey{{ID: "1", File: "/k.pem"}}},
	Requests: []RequestMeaning{{Host: "*.example.com", Path: "/q", Method: "POST", Operation: "read", Data: "public"}},
	TLS:      []TLSHost{{Host: "api.example.com", Port: 8443, CA: "/ca.pem"}},
}

func TestLoadEverything(t *testing.T) {
	c := mustLoad(t, `
root = "/srv/ff//data/"
state = "/tmp/ff"
on_unavailable = "closed"
privileged = "govern"
readonly_root = true
unseen_egress = 0.05
sample = "500ms"
checkpoint = "1m"
collect = "2m"
mode = "enforce"
log_level = "debug"
log_format = "json"
[metrics]
listen = "127.0.0.1:9469"
[egress]
rules = "/srv/rules/"
serve = { listen = ":7443", ca = "/ca.pem", cert = "/c.pem", key = "/k.pem", names = ["n-*"], rate = 5 }
default = { tunnel = { encryption = "strong", dedicated = true, endpoint = "eu-1", rate = "50mbit", requests = "600/m", scope = "user" }, qos = "bulk" }
lookups = { deny = true }
inspect = [{ endpoint = "looking-glass" }, { risk = 90, endpoint = "cell" }]
default_data = "secret"
pdp_grace = "1m"
decide_within = "20ms"
verify = "1m"
user_headers = ["X-User", "Remote_User"]
data_headers = []
connections = 10
server_first = [2525]
resolver = "10.0.0.2"
resolvers = ["2001:db8::53"]
resolver_hosts = ["*.dns.example"]
ech = true
queries = 10
tokens = { headers = ["X-Token"], issuer = "i", audience = "a", key = [{ id = "1", file = "/k.pem" }] }
request = [{ host = "*.example.com", path = "/q", method = "POST", operation = "read", data = "public" }]
tls = [{ host = "api.example.com", port = 8443, ca = "/ca.pem" }]
[deadlines]
admit = "200ms"
cold_start = "5s"
predict = "200ms"
[history]
runs_per_workload = 8
max_age = "36h"
max_bytes = "64Mi"
[prediction]
coverage = 0.9
seal = 1
min_runs = 2
priors = "/srv/priors"
[agent]
delay = "250ms"
[airbag]
enabled = true
min_runs = 9
reserve = "1Gi"
calm = "5m"
[scan]
enabled = false
first_scan_wait = "0s"
timeout = "10s"
memory = "128Mi"
cache = "1Mi"
osv = "/srv/osv.zip"
exploited = ["/srv/kev.json", "/srv//ssvc.csv"]
[threats]
feeds = ["/srv/feeds/"]
half_life = "10d"
[[threats.fetch]]
url = "https://lists.example/all/drop.json"
checksum = "https://lists.example/all/SHA256SUMS"
every = "1h"
max_size = "1Mi"
[[threats.fetch]]
url = "https://lists.example/get?list=7"
file = "seven.netset"
[safeguards]
medium = ["pids", "watch"]
high = ["freeze"]
critical = []
cost_of_incident = 2.5
cost_of_breakage = 0
live = false
calm = "1h"
changes_per_minute = 1
[defaults]
memory = "512Mi"
"memory.soft" = 1048576
cpus = 1.5
syscalls.deny = ["bpf", "ptrace"]
[guardrails]
memory.min = "16Mi"
memory.max = "4Gi"
memory.soft = { max = "3Gi" }
network = "off"
agent = { tightest = "off" }
capabilities.drop = ["net_raw"]
[conflicts]
resources = "prediction"
[phases]
runs = 3
served = "10s"
quiet = "1s"
[[profile]]
name = "web"
users = ["a", "b-*"]
grants = ["mode", "syscalls", "capabilities/CAP_NET_RAW"]
mode = "observe"
[profile.defaults]
pids = 10
[profile.guardrails]
pids = { max = 20 }
[[profile]]
name = "rest"
groups = ["*"]
`)
	def := func(k policy.Key, v policy.Value, source string) policy.Claim {
		return policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Default, Source: source}}
	}
	at := func(v policy.Value) *policy.Value { return &v }
	const defaults, guards = "config.toml [defaults]", "config.toml [guardrails]"
	want := &Config{
		Path: c.Path, Root: "/srv/ff/data", State: "/tmp/ff", OnUnavailable: Closed, Privileged: Govern, ReadonlyRoot: true, UnseenEgress: 0.05,
		LogLevel: "debug", LogFormat: "json", Metrics: Metrics{"127.0.0.1:9469"},
		Egress: Egress{Rules: "/srv/rules", PDP: PDPLocal, Serve: CentralServer{Identity{"/ca.pem", "/c.pem", "/k.pem"}, ":7443", []string{"n-*"}, 5}, Lookups: flow.Profile{Deny: true}, Inspect: []Inspection{{70, "looking-glass"}, {90, "cell"}}, Data: "secret", Grace: time.Minute, Interception: everyInterception, Default: flow.Profile{
			Encryption: flow.Strong, Dedicated: true, Endpoint: "eu-1", QoS: flow.QoSBulk,
			Rates: []flow.Rate{{Bytes: 6_250_000, Requests: 10, Scope: flow.PerUser}}}},
		Deadlines: Deadlines{200 * time.Millisecond, 5 * time.Second, 200 * time.Millisecond},
		Sample:    500 * time.Millisecond, Checkpoint: time.Minute, Collect: 2 * time.Minute,
		History:    History{8, 36 * time.Hour, 64 << 20},
		Prediction: Prediction{0.9, 1, 2, "/srv/priors"},
		Phases:     Phases{3, 10 * time.Second, time.Second},
		Airbag:     Airbag{true, 9, 1 << 30, 5 * time.Minute},
		Threats: Threats{Feeds: []string{"/srv/feeds"}, HalfLife: 10 * day, Fetch: []Fetch{
			{"https://lists.example/all/drop.json", "drop.json", "https://lists.example/all/SHA256SUMS", time.Hour, 1 << 20},
			{URL: "https://lists.example/get?list=7", File: "seven.netset", Every: 6 * time.Hour, MaxSize: 16 << 20},
		}},
		Agent: Agent{Delay: 250 * time.Millisecond},
		Scan:  Scan{OSV: "/srv/osv.zip", Exploited: []string{"/srv/kev.json", "/srv/ssvc.csv"}, Timeout: 10 * time.Second, Memory: 128 << 20, Cache: 1 << 20},
		Safeguards: Safeguards{
			Levels: map[evidence.Level][]evidence.Safeguard{
				evidence.Low: nil, evidence.Medium: {evidence.SafeguardWatch, evidence.SafeguardPIDs}, evidence.High: {evidence.SafeguardFreeze}, evidence.Critical: nil,
			},
			CostOfIncident: 2.5, Calm: time.Hour, PerMinute: 1,
		},
		Site: policy.Site{
			Claims: []policy.Claim{
				modeClaim(policy.ModeEnforce, "config.toml mode"),
				def(policy.KeyCPUs, 1500, defaults),
				def(policy.KeyMemory, 512<<20, defaults),
				def(policy.KeyMemorySoft, 1<<20, defaults),
				def("syscalls/bpf", policy.SyscallDeny, defaults),
				def("syscalls/ptrace", policy.SyscallDeny, defaults),
			},
			Guards: []policy.Guard{
				{Key: policy.KeyAgent, Floor: at(1), Source: guards},
				{Key: "capabilities/CAP_NET_RAW", Ceiling: at(policy.Tight), Source: guards},
				{Key: policy.KeyMemorySoft, Ceiling: at(3 << 30), Source: guards},
				{Key: policy.KeyMemory, Floor: at(16 << 20), Ceiling: at(4 << 30), Source: guards},
				{Key: policy.KeyNetwork, Ceiling: at(policy.Tight), Source: guards},
			},
			Prefer: map[policy.Dimension]policy.Prefer{
				policy.Control: policy.PreferStrictest, policy.Resources: policy.PreferPrediction, policy.Syscalls: policy.PreferStrictest,
				policy.Capabilities: policy.PreferStrictest, policy.Filesystem: policy.PreferStrictest, policy.Network: policy.PreferStrictest,
				policy.Egress: policy.PreferStrictest, policy.Devices: policy.PreferStrictest,
			},
			Profiles: []policy.Profile{
				{
					Name: "web", Users: []string{"a", "b-*"},
					Grants: []policy.Key{policy.KeyMode, policy.KeySyscalls, "capabilities/CAP_NET_RAW"},
					Claims: []policy.Claim{modeClaim(policy.ModeObserve, "profile web"), def(policy.KeyPIDs, 10, "profile web")},
					Guards: []policy.Guard{{Key: policy.KeyPIDs, Ceiling: at(20), Source: "profile web"}},
				},
				{Name: "rest", Groups: []string{"*"}},
			},
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got\n%+v\nwant\n%+v", c, want)
	}
}

func TestFromEnv(t *testing.T) {
	t.Run("named", func(t *testing.T) {
		path := write(t, `sample = "2s"`)
		t.Setenv(EnvPath, path)
		c, err := FromEnv()
		if err != nil || c.Path != path || c.Sample != 2*time.Second {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("named and missing", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "none.toml")
		t.Setenv(EnvPath, path)
		if _, err := FromEnv(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), EnvPath) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("default and missing", func(t *testing.T) {
		if _, err := os.Stat(DefaultPath); err == nil {
			t.Skip("this machine has " + DefaultPath)
		}
		t.Setenv(EnvPath, "")
		c, err := FromEnv()
		if err != nil || !reflect.DeepEqual(c, Default()) {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("relative", func(t *testing.T) {
		path := write(t, "")
		t.Chdir(filepath.Dir(path))
		c, err := Load("config.toml")
		if err != nil || c.Path != path {
			t.Errorf("got %+v, %v", c, err)
		}
	})
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); err == nil {
		t.Error("a directory was read")
	}
	if _, err := Check(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Check of a missing file: %v", err)
	}
	big := write(t, strings.Repeat("# comment\n", maxFile/10+1))
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "256 KiB") {
		t.Errorf("a file above the bound: %v", err)
	}
}

func TestPaths(t *testing.T) {
	c := Default()
	got := []string{c.Socket(), c.Lock(), c.ContainersDir(), c.NotifyDir(), c.Log(), c.StoreDir(), c.SealedDir(), c.SpoolDir(), c.StartLock()}
	want := []string{
		"/run/forefend/forefend.sock", "/run/forefend/daemon.lock", "/run/forefend/c", "/run/forefend/n",
		"/var/lib/forefend/daemon.log", "/var/lib/forefend/store", "/var/lib/forefend/sealed", "/var/lib/forefend/spool", "/run/forefend/start.lock",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	c.State = "/" + strings.Repeat("s", maxState-1)
	if n := len(filepath.Join(c.NotifyDir(), strings.Repeat("n", maxSocketName))); n != maxSocketPath {
		t.Errorf("the longest socket's path has %d bytes, want %d", n, maxSocketPath)
	}
}
