package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// What the CLI prints with --json, as docs/cli.md describes it: these tests read it like any other program would, and
// not through Forefend's own types.

type containerID struct{ Namespace, Container string }

type prediction struct {
	Runs         int
	Level        string
	Unseen       float64
	Seen         map[string]int
	Sealed       bool
	Memory       struct{ Value, Coverage float64 }
	PIDs         struct{ Value, Coverage float64 }
	Destinations []string
}

type psRow struct {
	ID         containerID
	PID        int
	Name, Mode string
	Sealed     bool
	By         string
	Prediction prediction
	Usage      usage
	Limits     struct {
		Memory     int64
		MemorySoft int64 `json:"memory_soft"`
		CPUs       float64
		PIDs       int64
	}
}

type lostClaim struct{ Text, Author, Source, Why string }

type field struct {
	Key, Text, Author, Source, Reason string
	Names                             []string
	NoValue                           bool `json:"no_value"`
	Lost                              []lostClaim
}

type decision struct {
	Revision              int
	Availability, Profile string
	Effective             struct{ Fields []field }
	Prediction            prediction
	Notes                 []string
	Facts                 struct {
		Run, User, Group string
		Image            struct{ Name, Repository, Digest string }
		Executable       struct{ Path, SHA256 string }
	}
	Seccomp *struct{ DefaultAction string }
	Changes []struct {
		Revision int
		Author   string
		Changed  []string
	}
}

type event struct {
	Seq     uint64
	Time    time.Time
	ID      containerID
	Kind    string
	Message string
	Fields  map[string]string
}

type run struct {
	ID       containerID
	Run      string
	Final    bool
	Watched  bool
	Exit     struct{ Status uint32 }
	Syscalls map[string]uint64
	Denied   map[string]uint64
	Usage    usage

	Destinations map[string]uint64
	RootfsWrites string `json:"rootfs_writes"`
}

type usage struct {
	MemoryPeak int64   `json:"memory_peak"`
	OOMKills   int64   `json:"oom_kills"`
	PIDsPeak   int64   `json:"pids_peak"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

type workloadRow struct {
	Key struct {
		Level int
		Value string
	}
	Name       string
	Runs       int
	Sealed     bool
	Prediction prediction
}

// ask runs forefend with --json and decodes what it prints.
func (h *host) ask(t testing.TB, into any, args ...string) {
	t.Helper()
	r := h.Forefend(append(args, "--json")...)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		t.Fatalf("forefend %v printed %q: %v", args, r.Stdout, err)
	}
}

func (h *host) ps(t testing.TB) []psRow {
	t.Helper()
	var out struct{ Containers []psRow }
	h.ask(t, &out, "ps")
	return out.Containers
}

// row is one container of ps; it fails the test when there is none.
func (h *host) row(t testing.TB, id string) psRow {
	t.Helper()
	rows := h.ps(t)
	i := slices.IndexFunc(rows, func(r psRow) bool { return r.ID.Container == id })
	if i < 0 {
		t.Fatalf("ps does not list %s: %+v", id, rows)
	}
	return rows[i]
}

func (h *host) explain(t testing.TB, id string) decision {
	t.Helper()
	var d decision
	h.ask(t, &d, "explain", id)
	return d
}

// history is the runs of the image and command whose name contains name, newest first, and their row.
func (h *host) history(t testing.TB, name string) (workloadRow, []run) {
	t.Helper()
	var out struct {
		Workloads []workloadRow
		Runs      []run
	}
	// A daemon that was too busy to take a run's last report in time finds it in the spool a little later.
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) { // long for the VM
		h.ask(t, &out, "history", name)
		for _, w := range out.Workloads {
			if w.Key.Level != 0 {
				continue
			}
			if len(out.Workloads) > 1 { // runs are listed for a single workload
				h.ask(t, &out, "history", w.Key.Value)
			}
			return w, out.Runs
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Fatalf("no history of %q: %+v", name, out.Workloads)
	return workloadRow{}, nil
}

// events lists what happened to one container, or to all when id is empty.
func (h *host) events(t testing.TB, id string) []event {
	t.Helper()
	args := []string{"events", "--json", "--since", "0"}
	if id != "" {
		args = append(args, id)
	}
	r := h.Forefend(args...)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	var all []event
	for line := range strings.Lines(r.Stdout) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// calls lists the system calls of a container's events of one kind.
func (h *host) calls(t testing.TB, id, kind string) []string {
	t.Helper()
	var names []string
	for _, e := range h.events(t, id) {
		if e.Kind == kind && e.Fields["syscall"] != "" {
			names = append(names, e.Fields["syscall"])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sawCall waits until an event of that kind names the call: events come in batches.
func (h *host) sawCall(t testing.TB, id, kind, call string) {
	t.Helper()
	eventually(t, "event "+kind+" for "+call+" of "+id, func() bool { return slices.Contains(h.calls(t, id, kind), call) })
}

// find returns the field that decides a key, or the member "family/name" of one.
func (d decision) find(key string) (field, bool) {
	family, name, member := strings.Cut(key, "/")
	for _, f := range d.Effective.Fields {
		if f.Key == family && !f.NoValue && (!member || slices.Contains(f.Names, name)) {
			return f, true
		}
	}
	return field{}, false
}

// want fails the test unless key is decided as text by author.
func (d decision) want(t testing.TB, key, text, author string) field {
	t.Helper()
	f, ok := d.find(key)
	if !ok || f.Text != text || f.Author != author {
		t.Errorf("explain: %s is %q by %s (found: %v), want %q by %s", key, f.Text, f.Author, ok, text, author)
	}
	return f
}
