package api

import (
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// AdmitRequest asks what a container that is about to be created may do.
type AdmitRequest struct {
	Version int            `json:"version"`
	Oldest  int            `json:"oldest,omitempty"` // see Understood; the client fills it in
	Facts   workload.Facts `json:"facts"`
	// Spec is the requested OCI spec without what no decision needs (environment,
	// hooks, most mounts): secrets stay out of the daemon.
	Spec specs.Spec `json:"spec"`
	// ListenerPath is where the shim will accept seccomp notifications.
	ListenerPath string `json:"listener_path"`
	// Kin says that who asks knows denials that do not hold among a program's own
	// processes (docs/decisions/0015). A shim of before would refuse a table with one.
	Kin bool `json:"kin,omitempty"`
	// Own says that who asks knows denials that do not hold for what a client executes in the container
	// (docs/decisions/0045).
	Own bool `json:"own,omitempty"`
	// Airbag says that who asks raises a predicted memory limit before it is reached (Decision.Airbag): only then may one
	// be hard.
	Airbag bool `json:"airbag,omitempty"`
	// Closed says that no mount brings programs into the container which its image does not have.
	Closed bool `json:"closed,omitempty"`
	// Patient says that who asks will call Await, and then Admit again, where Decision.Wait says so; Waited that it
	// has done so.
	Patient bool `json:"patient,omitempty"`
	Waited  bool `json:"waited,omitempty"`
	// DryRun decides without recording anything: explain --image.
	DryRun bool `json:"dry_run,omitempty"`
}

// Availability says who decided.
type Availability string

// A decision is the daemon's, or was made by the shim while the daemon was
// away: from the last sealed policy of the workload, from the site default, or not at all.
const (
	ByDaemon      Availability = "daemon"
	ByLastKnown   Availability = "last-known"
	BySiteDefault Availability = "site-default"
	ByNobody      Availability = "open"
)

// Decision is the whole answer to an AdmitRequest, and what explain prints.
type Decision struct {
	Version      int                 `json:"version"`
	Time         time.Time           `json:"time"`
	Facts        workload.Facts      `json:"facts"`
	Availability Availability        `json:"availability"`
	Profile      string              `json:"profile"` // user/group profile of config.toml that applied
	Effective    policy.Effective    `json:"effective"`
	Prediction   Prediction          `json:"prediction"`
	Sources      []Source            `json:"sources,omitempty"`
	Notes        []string            `json:"notes,omitempty"`   // what a person should know: degraded, left as asked, …
	Seccomp      *specs.LinuxSeccomp `json:"seccomp,omitempty"` // nil: the spec's profile stays as it is
	Table        []byte              `json:"table,omitempty"`   // runtime/seccomp.Table; empty: nothing is supervised
	// AsAsked marks a privileged container that the site leaves as asked: neither
	// its spec nor its execs are touched beyond resources.
	AsAsked  bool `json:"as_asked,omitempty"`
	Revision int  `json:"revision"` // 1 at Create, one more for each change of the running container
	// Changes are the last changes of the running container, the oldest first.
	Changes []Change `json:"changes,omitempty"`
	// Data is the class of data of the workload's outbound requests that say nothing: its label, where the profile grants that it may
	// loosen egress. Else the label can only raise what is demanded, and this is empty.
	Data string `json:"data,omitempty"`
	// Airbag is how a predicted memory limit follows what the container needs; nil: the limit is not a predicted one.
	Airbag *Airbag `json:"airbag,omitempty"`

	// What the sources of a prediction said beside the history, and what follows from it. Nil: not known.
	Risk     *evidence.Risk     `json:"risk,omitempty"`
	Scan     *Scan              `json:"scan,omitempty"`
	Load     *evidence.Load     `json:"load,omitempty"`
	Standing *evidence.Standing `json:"standing,omitempty"`
	// Findings are what earlier runs of the same code were caught at, and from the first report on this run itself.
	Findings evidence.Findings `json:"findings,omitzero"`

	// Wait is how long it is worth waiting (Await) for what this decision was made without, and asking again. It is
	// set for a Patient request only, and then nothing else was done about the container yet.
	Wait time.Duration `json:"wait,omitempty"`
}

// Size is about how many bytes the decision takes without its code.
func (d *Decision) Size() int {
	const value = 48 // a string's header, its allocation, its place in a map
	n := 4 << 10
	add := func(words ...string) {
		for _, w := range words {
			n += value + len(w)
		}
	}
	f := d.Facts
	add(f.Run, f.Sandbox, f.Path, f.Cwd, f.User, f.Group, f.Containerd, f.Bundle, f.Image.Name, f.Executable.Path)
	add(f.Args...)
	add(f.Rootfs...)
	add(d.Notes...)
	for _, labels := range []map[string]string{f.Annotations, f.Image.Labels} {
		for k, v := range labels {
			add(k, v)
		}
	}
	for _, source := range d.Sources {
		add(source.Name, source.Reason)
	}
	for _, field := range d.Effective.Fields {
		add(string(field.Key), field.Source, field.Reason)
		add(field.Names...)
		for _, lost := range field.Lost {
			add(lost.Source, lost.Reason, lost.Why)
		}
	}
	add(d.Prediction.Hot...)
	add(d.Prediction.Destinations...)
	return n + 2*value*len(d.Prediction.Seen)
}

// Scan is what static analysis said, as far as people and decisions look at it.
type Scan struct {
	Entry    string   `json:"entry"`
	Syscalls []string `json:"syscalls,omitempty"`
	Programs int      `json:"programs"` // files whose code may run
	// Unknown are the first places that could not be followed, Unfollowed is how many there are.
	Unknown         []evidence.Unknown       `json:"unknown,omitempty"`
	Unfollowed      int                      `json:"unfollowed,omitempty"`
	Capabilities    []evidence.Capability    `json:"capabilities,omitempty"`
	Ports           []evidence.Port          `json:"ports,omitempty"`
	Memory          evidence.MemoryPrior     `json:"memory,omitzero"`
	Sized           string                   `json:"sized,omitempty"` // the program that sizes itself by its memory limit; empty: none is known
	Sinks           []evidence.Sink          `json:"sinks,omitempty"`
	Packages        int                      `json:"packages,omitempty"`
	Vulnerable      int                      `json:"vulnerable,omitempty"`      // known vulnerabilities of all packages
	Vulnerabilities []evidence.Vulnerability `json:"vulnerabilities,omitempty"` // reachable ones, the worst first
	Seconds         float64                  `json:"seconds,omitempty"`
	Errors          []string                 `json:"errors,omitempty"`
}

// AwaitRequest asks to be answered once what is being found out about a container is known, or not worth waiting for.
type AwaitRequest struct {
	Version int            `json:"version"`
	Oldest  int            `json:"oldest,omitempty"` // see Understood; the client fills it in
	Facts   workload.Facts `json:"facts"`            // of the decision with Wait
}

// ProfileRequest asks what is known of a user or, with Group, of a group; of everybody when Name is empty.
type ProfileRequest struct {
	Name  string `json:"name,omitempty"`
	Group bool   `json:"group,omitempty"`
	Limit int    `json:"limit,omitempty"` // rows of each kind; 0: 100
}

// ProfileResponse lists what is known, the least trusted first.
type ProfileResponse struct {
	Standings []evidence.Standing `json:"standings"`
}

// Prediction is what the predictor expects of a run.
type Prediction = workload.Prediction

// How a source took part in a prediction.
const (
	SourceOK     = "ok"
	SourceAbsent = "absent" // it had nothing to say
	SourceLate   = "late"   // its deadline passed
	SourceFailed = "failed"
)

// The names of the sources that say who a container is.
const (
	SourceImage      = "image"
	SourceExecutable = "executable"
)

// Source is how one input of a prediction took part.
type Source struct {
	Name   string        `json:"name"`   // history, image, executable, …
	Status string        `json:"status"` // ok, absent, late, failed
	Took   time.Duration `json:"took"`
	Reason string        `json:"reason,omitempty"`
}

// UpdateRequest asks to change the resources of a running container, as `ctr task
// update`, nerdctl update and the kubelet do.
type UpdateRequest struct {
	Version   int                  `json:"version"`
	Oldest    int                  `json:"oldest,omitempty"` // see Understood; the client fills it in
	ID        workload.ID          `json:"id"`
	Resources specs.LinuxResources `json:"resources"` // the whole request: the update laid over what was asked before
	Before    Decision             `json:"before"`    // the decision in force, as the shim has it
	// Refused says that runc did not accept what the last UpdateRequest led to:
	// Before is still in force, and Resources is not looked at.
	Refused bool `json:"refused,omitempty"`
}

// ObserveRequest carries what a shim saw since its last one, at most MaxEvents and
// MaxObservations of them.
type ObserveRequest struct {
	Version      int                    `json:"version"`
	Oldest       int                    `json:"oldest,omitempty"` // see Understood; the client fills it in
	Observations []workload.Observation `json:"observations,omitempty"`
	Events       []Event                `json:"events,omitempty"`
	Lost         uint64                 `json:"lost,omitempty"` // events the shim had to drop
	// Changed are decisions in force that the shim has made itself since it last reported, the newest of each container.
	Changed []Decision `json:"changed,omitempty"`
}

// How files in the spool end: what a shim had to tell while no daemon was there.
const (
	SpooledRun      = ".json"     // the final observation of a run
	SpooledDecision = ".decision" // the decision it ran under
)

// Event kinds. A kind is a stable word for programs; Message is for people.
const (
	EventAdmitted = "admitted" // a container's policy was decided
	EventUpdated  = "updated"  // a running container's policy changed
	EventDenied   = "denied"   // a call was refused for the first time in a run
	EventLearned  = "learned"  // a call no earlier run made was allowed and recorded
	EventWatched  = "watched"  // a dangerous call was let through under watch for the first time
	EventFrozen   = "frozen"   // a container was frozen, or thawed, or killed by Forefend
	EventThawed   = "thawed"
	EventKilled   = "killed"
	EventPhase    = "phase" // a container's workload serves, is told to reload, or to end
	EventExited   = "exited"
	EventOOM      = "oom"
	EventRaised   = "raised"   // a predicted memory limit was raised before it was reached
	EventHeld     = "held"     // it was not raised although the container grows
	EventDegraded = "degraded" // something works less well than it should
	EventCleaned  = "cleaned"  // garbage of a crashed shim was collected
	EventAnomaly  = "anomaly"  // a running container departs from what it, or its like, did before
	EventThreat   = "threat"   // it reached for a listed address, or matches an attack pattern
	EventForecast = "forecast" // it is likely to reach a limit
	EventRisk     = "risk"     // its risk has another level now
	EventAgent    = "agent"    // its agent was replaced, or broke its channel's rules
	EventReceipt  = "receipt"  // its gateway's receipts and its agent's counts contradict each other
	EventRules    = "rules"    // rules of egress were read anew, or could not be
)

// Event is one thing that happened to one container, or to the node.
type Event struct {
	Seq     uint64            `json:"seq"` // set by the daemon, increasing
	Time    time.Time         `json:"time"`
	ID      workload.ID       `json:"id,omitzero"`
	Run     string            `json:"run,omitempty"`
	Kind    string            `json:"kind"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"` // syscall, errno, pid, exe, comm, phase, …
}

// ListResponse is the answer of ps.
type ListResponse struct {
	Containers []Container `json:"containers"`
}

// Container is one running container as ps shows it.
type Container struct {
	ID         workload.ID    `json:"id"`
	Run        string         `json:"run"`
	Name       string         `json:"name"`
	Image      string         `json:"image,omitempty"`
	PID        int            `json:"pid"`
	Mode       string         `json:"mode"`
	Sealed     bool           `json:"sealed"`
	Started    time.Time      `json:"started"`
	Prediction Prediction     `json:"prediction"`
	Usage      workload.Usage `json:"usage"`
	Limits     Limits         `json:"limits"`
	By         Availability   `json:"by"`

	Risk      *evidence.Risk      `json:"risk,omitempty"`      // as of its last report, without the factors' reasons
	Forecasts []evidence.Forecast `json:"forecasts,omitempty"` // as of its last report
}

// Limits are the enforced limits; zero is none.
type Limits struct {
	Memory     int64   `json:"memory"`
	MemorySoft int64   `json:"memory_soft"`
	CPUs       float64 `json:"cpus"`
	PIDs       int64   `json:"pids"`
}

// ExplainRequest asks for the decision about a container, running or gone.
type ExplainRequest struct {
	ID workload.ID `json:"id"`
}

// HistoryRequest asks for known workloads, or for the runs of one.
type HistoryRequest struct {
	Workload string `json:"workload,omitempty"` // substring of its name or start of its key; empty: all workloads
	Limit    int    `json:"limit,omitempty"`    // rows; 0: 100
}

// HistoryResponse lists workloads, and runs when exactly one workload matched.
type HistoryResponse struct {
	Workloads []Workload             `json:"workloads"`
	Runs      []workload.Observation `json:"runs,omitempty"`      // newest first
	SetAside  []string               `json:"set_aside,omitempty"` // damaged records: where they are and why
}

// Workload is the history of one key in a row.
type Workload struct {
	Key        workload.Key `json:"key"`
	Name       string       `json:"name"`
	Runs       int          `json:"runs"`
	Last       time.Time    `json:"last"`
	Prediction Prediction   `json:"prediction"` // for its next run
	Sealed     bool         `json:"sealed"`
}

// EventsRequest asks for events after a sequence number. With Wait the answer
// is held until there is one, Wait has passed, or the daemon stops.
type EventsRequest struct {
	After uint64        `json:"after"`
	Limit int           `json:"limit,omitempty"` // 0: 1000
	Wait  time.Duration `json:"wait,omitempty"`
	Tail  bool          `json:"tail,omitempty"` // start Limit events before the newest instead of at After
	ID    workload.ID   `json:"id,omitzero"`    // only this container's
}

// EventsResponse are events in order; Next is the After of the next request.
type EventsResponse struct {
	Events []Event `json:"events"`
	Next   uint64  `json:"next"`
	Lost   uint64  `json:"lost,omitempty"` // events older than what is kept
}

// Status is the daemon about itself, for doctor.
type Status struct {
	Version    string        `json:"version"`
	API        int           `json:"api"`
	PID        int           `json:"pid"`
	Started    time.Time     `json:"started"`
	Config     string        `json:"config"`
	Root       string        `json:"root"`
	State      string        `json:"state"`
	Containers int           `json:"containers"`
	Workloads  int           `json:"workloads"`
	Runs       int           `json:"runs"`
	SetAside   []string      `json:"set_aside,omitempty"`
	Degraded   []string      `json:"degraded,omitempty"` // what works less well than it should, and why
	RSS        int64         `json:"rss"`
	Load       time.Duration `json:"load"` // time it took to load the history
}
