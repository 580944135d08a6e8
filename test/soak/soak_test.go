package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// How long and with how many containers: SOAK is a duration ("30m"), SOAK_CONTAINERS a number.
const (
	containers = 50
	runtime    = "io.containerd.forefend.v1"
)

// kinds are the workloads, each of which says by its exit, or by its check, that something it needs was refused.
var kinds = []kind{
	{image: "redis", args: []string{"redis-server", "--protected-mode", "no", "--save", "", "--dir", "/data"},
		check: []string{"redis-cli", "incr", "soak"}},
	{image: "nginx", args: []string{"nginx", "-g", "daemon off;"}, check: []string{"nginx", "-s", "reload"}},
	{image: "busybox", args: []string{"sh", "-c", `i=0
		while :; do
			mkdir -p /tmp/a && echo $i > /tmp/a/f && read x < /tmp/a/f && mv /tmp/a/f /tmp/a/g && rm /tmp/a/g && rmdir /tmp/a || exit 7
			i=$((i+1)); sleep 1
		done`}, check: []string{"true"}},
	{image: "static", args: []string{"/probe", "serve"}, check: []string{"/probe", "status"}},
}

type kind struct {
	image       string
	args, check []string
}

// TestSoak is `make soak`.
func TestSoak(t *testing.T) {
	root.Test(t)
	length, err := time.ParseDuration(os.Getenv("SOAK"))
	if os.Getenv("SOAK") == "" {
		t.Skip("SOAK says how long to soak, such as 3m: run make soak")
	}
	if err != nil {
		t.Fatal(err)
	}
	s := newSoak(t)
	s.start()
	s.grown.sample(s.measure()) // after the start, what is kept for a container is there
	began := time.Now()
	for step := 0; time.Since(began) < length; step++ {
		switch {
		case step%40 == 20:
			s.killDaemon()
		case step%40 == 35:
			s.killAgent()
		case step%4 == 3:
			s.use(s.rand.IntN(len(s.ids)))
		default:
			s.change(s.rand.IntN(len(s.ids)))
		}
		if step%20 == 19 {
			s.grown.sample(s.measure())
		}
	}
	s.settle()
	s.healthy()
	s.grown.check(t)
	t.Logf("%d containers, %s: %d changes (%d refused), %d checks, %d daemons and %d agents killed; %s", len(s.ids), time.Since(began).Round(time.Second),
		s.changes, s.refused, s.checks, s.daemons, s.agents, s.grown)
	s.end()
}

// soak is one node under load.
type soak struct {
	*harness.Env
	t     *testing.T
	rand  *rand.Rand
	ids   []string
	grown growth

	changes, refused, checks, daemons, agents int
}

func newSoak(t *testing.T) *soak {
	env := harness.New(t, harness.WithImages("redis", "nginx", "busybox", "static"))
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed) // what was changed, in which order; the machine's timing is not repeated
	return &soak{Env: env, t: t, rand: rand.New(rand.NewPCG(seed, 0))}
}

// start runs every container in the background.
func (s *soak) start() {
	n := containers
	if text := os.Getenv("SOAK_CONTAINERS"); text != "" {
		if _, err := fmt.Sscan(text, &n); err != nil || n < 1 {
			s.t.Fatalf("SOAK_CONTAINERS=%q is no number of containers", text)
		}
	}
	for i := range n {
		k, id := kinds[i%len(kinds)], fmt.Sprintf("soak-%d", i)
		s.must(s.Ctr(append([]string{"run", "-d", "--runtime", runtime, harness.Image(k.image), id}, k.args...)...))
		s.ids = append(s.ids, id)
	}
}

func (s *soak) must(r harness.Result) {
	s.t.Helper()
	if err := r.Check(); err != nil {
		s.t.Fatal(err)
	}
}

// change sets something of a container, or takes it back. All of it leaves a healthy workload room to live.
func (s *soak) change(i int) {
	pick := func(words ...string) string { return words[s.rand.IntN(len(words))] }
	var args []string
	switch s.rand.IntN(8) {
	case 0:
		args = []string{"reset", s.ids[i]}
	case 1:
		args = []string{"unset", s.ids[i], pick("memory", "pids", "cpus", "syscalls.deny")}
	default:
		args = []string{"set", s.ids[i], pick("memory=256Mi", "memory=384Mi", "memory=512Mi", "pids=200", "pids=500", "cpus=0.5", "cpus=1.5",
			"cpu.shares=512", "syscalls.deny=ptrace", "syscalls.deny=bpf,kexec_load", "network=off", "network=on")}
	}
	r := s.Forefend(args...)
	s.changes++
	if r.Code != 0 { // a daemon that has just been killed refuses; nothing else may
		s.refused++
		if r.Code != 3 {
			s.t.Errorf("forefend %s: exit status %d: %s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
		}
		s.revive()
	}
}

// use has a container do what it is for.
func (s *soak) use(i int) {
	k := kinds[i%len(kinds)]
	s.checks++
	r := s.Ctr(append([]string{"task", "exec", "--exec-id", fmt.Sprintf("check-%d", s.checks), s.ids[i]}, k.check...)...)
	if r.Code != 0 {
		s.t.Errorf("%s in %s: %v%s", strings.Join(k.check, " "), s.ids[i], r.Check(), r.Stdout)
	}
}

func (s *soak) pids(name string, words ...string) []int {
	s.t.Helper()
	found, err := s.Pids(name, words...)
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

func (s *soak) killDaemon() {
	for _, pid := range s.pids("forefend", "daemon") {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			s.daemons++
		}
	}
	s.use(s.rand.IntN(len(s.ids))) // without one
	s.revive()
}

// revive starts a daemon as a shim would.
func (s *soak) revive() { s.must(s.Forefend("daemon", "--detach")) }

// killAgent kills one of the agents, where there are any: another takes its place.
func (s *soak) killAgent() {
	if agents := s.pids("forefend-agent"); len(agents) > 0 {
		if syscall.Kill(agents[s.rand.IntN(len(agents))], syscall.SIGKILL) == nil {
			s.agents++
		}
	}
}

// settle gives all containers back what they began with.
func (s *soak) settle() {
	s.revive()
	for _, id := range s.ids {
		s.must(s.Forefend("reset", id))
	}
	s.grown.sample(s.measure())
}

// healthy checks that every container still runs, works, and was refused nothing.
func (s *soak) healthy() {
	var out struct {
		Containers []struct {
			ID    struct{ Container string }
			Usage struct {
				OOMKills int64 `json:"oom_kills"`
			}
		}
	}
	s.ask(&out, "ps")
	if len(out.Containers) != len(s.ids) {
		s.t.Errorf("%d of %d containers run", len(out.Containers), len(s.ids))
	}
	for _, c := range out.Containers {
		if c.Usage.OOMKills > 0 {
			s.t.Errorf("%s: %d processes were killed for memory", c.ID.Container, c.Usage.OOMKills)
		}
	}
	for i := range s.ids {
		s.use(i)
	}
	r := s.Forefend("events", "--json", "--since", "0")
	s.must(r)
	told := 0
	for line := range strings.Lines(r.Stdout) {
		var e struct {
			Kind, Message string
			ID            struct{ Container string }
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		told++
		switch e.Kind {
		case "denied", "oom", "exited", "frozen", "killed":
			s.t.Errorf("%s: %s: %s", e.ID.Container, e.Kind, e.Message)
		}
	}
	if told == 0 {
		s.t.Error("no event at all was told: nothing was looked at")
	}
}

func (s *soak) ask(into any, args ...string) {
	s.t.Helper()
	r := s.Forefend(append(args, "--json")...)
	s.must(r)
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		s.t.Fatal(err)
	}
}

// end removes every container; what is left of any fails the test.
func (s *soak) end() {
	for _, id := range s.ids {
		s.Ctr("task", "rm", "-f", id)
		s.Ctr("container", "rm", id)
	}
	left, err := s.Leaks(context.Background())
	if err != nil || len(left) > 0 {
		s.t.Errorf("left behind: %v\n%s", err, strings.Join(left, "\n"))
	}
}
