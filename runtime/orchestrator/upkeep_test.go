package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/runtime/workload"
)

// spool leaves a file where a shim without a daemon leaves its last observation.
func (n *node) spool(t *testing.T, name string, body []byte) string {
	t.Helper()
	path := filepath.Join(n.cfg.SpoolDir, name)
	if err := errors.Join(os.MkdirAll(n.cfg.SpoolDir, 0o700), os.WriteFile(path, body, 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

func encode(t *testing.T, o workload.Observation) []byte {
	t.Helper()
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestSpooledObservationsAreTakenIn(t *testing.T) {
	n := newNode(t, nil)
	if err := n.takeSpool(t.Context()); err != nil {
		t.Fatalf("without a spool: %v", err)
	}
	n.admit(t, "web")
	taken := n.spool(t, "web-1.json", encode(t, observation("web", true)))
	unfinished := n.spool(t, ".web-2", []byte("{"))
	if err := n.takeSpool(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept := n.history.observations(); len(kept) != 1 || kept[0].Run != "web-1" || len(kept[0].Keys) == 0 {
		t.Errorf("%+v", kept)
	}
	if exists(t, taken) || !exists(t, unfinished) {
		t.Error("the file taken in is still there, or one that a shim is writing is gone")
	}
	if kinds := n.journal.kinds(); !slices.Equal(kinds, []string{api.EventAdmitted, api.EventExited}) {
		t.Errorf("events %q", kinds)
	}
}

// Of a container that came and went without a daemon the decision is journaled all the same.
func TestSpooledDecisionsAreJournaled(t *testing.T) {
	n := newNode(t, nil)
	d := n.admit(t, "gone")
	n.journal.decisions = make(map[workload.ID]api.Decision)
	body, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	taken := n.spool(t, "gone-1"+api.SpooledDecision, body)
	damaged := []string{n.spool(t, "cut"+api.SpooledDecision, body[:40]), n.spool(t, "nameless"+api.SpooledDecision, []byte(`{"version":1}`)),
		n.spool(t, "newer"+api.SpooledDecision, []byte(strings.Replace(string(body), `"version":1`, `"version":99`, 1)))}
	if err := n.takeSpool(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept := n.journal.decisions[d.Facts.ID]; len(n.journal.decisions) != 1 || kept.Facts.Run != "gone-1" || exists(t, taken) {
		t.Errorf("journaled %v", n.journal.decisions)
	}
	for _, path := range damaged {
		if exists(t, path) || !exists(t, path+damagedSpool) {
			t.Errorf("%s was not set aside", path)
		}
	}
}

func TestDamagedSpoolIsSetAside(t *testing.T) {
	newer := observation("x", true)
	newer.Version++
	nameless := observation("x", true)
	nameless.ID.Container = "../x"
	bodies := map[string][]byte{
		"cut.json": encode(t, observation("x", true))[:40], "empty.json": nil, "newer.json": encode(t, newer), "nameless.json": encode(t, nameless),
		"huge.json": []byte(strings.Repeat(" ", maxSpooled+1)),
	}
	n := newNode(t, nil)
	for name, body := range bodies {
		n.spool(t, name, body)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	good := n.spool(t, "good.json", encode(t, observation("good", true)))
	if err := errors.Join(os.WriteFile(secret, encode(t, observation("stolen", true)), 0o600), os.Symlink(secret, filepath.Join(n.cfg.SpoolDir, "link.json")),
		os.Mkdir(filepath.Join(n.cfg.SpoolDir, "dir.json"), 0o700), syscall.Mkfifo(filepath.Join(n.cfg.SpoolDir, "fifo.json"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second round finds nothing to do
		if err := n.takeSpool(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name := range bodies {
		if path := filepath.Join(n.cfg.SpoolDir, name); exists(t, path) || !exists(t, path+damagedSpool) {
			t.Errorf("%s was not set aside", name)
		}
	}
	for _, name := range []string{"link.json", "dir.json", "fifo.json"} {
		if path := filepath.Join(n.cfg.SpoolDir, name); exists(t, path) || !exists(t, path+damagedSpool) {
			t.Errorf("%s was not set aside", name)
		}
	}
	if kept := n.history.observations(); exists(t, good) || len(kept) != 1 || kept[0].ID.Container != "good" || !exists(t, secret) {
		t.Errorf("kept %+v", kept)
	}
	degraded := slices.DeleteFunc(n.journal.kinds(), func(k string) bool { return k != api.EventDegraded })
	if len(degraded) != len(bodies)+3 {
		t.Errorf("%d of %d are in the events", len(degraded), len(bodies)+3)
	}
}

// A full disk takes no observation away, and one file's trouble does not hold up the others.
func TestSpoolStaysUntilItIsDurable(t *testing.T) {
	n := newNode(t, nil)
	path := n.spool(t, "web-1.json", encode(t, observation("web", true)))
	n.history.broken = errors.New("no space left on device")
	if err := n.takeSpool(t.Context()); !errors.Is(err, n.history.broken) || !exists(t, path) {
		t.Errorf("%v", err)
	}
	// What the history can never take is set aside.
	n.history.broken = fmt.Errorf("no such run: %w", errdefs.ErrInvalidArgument)
	if err := n.takeSpool(t.Context()); err != nil || exists(t, path) || !exists(t, path+damagedSpool) {
		t.Errorf("%v", err)
	}
	n.history.broken = nil
	n.spool(t, "web-1.json", encode(t, observation("web", true)))
	if err := n.takeSpool(t.Context()); err != nil || len(n.history.observations()) != 1 {
		t.Errorf("%v", err)
	}
}

// What was set aside must not fill the rounds of what is to be taken in.
func TestSpoolIsTakenInRounds(t *testing.T) {
	n := newNode(t, nil)
	for i := range spoolAtOnce + 100 {
		n.spool(t, fmt.Sprintf("a%04d.json%s", i, damagedSpool), nil)
	}
	for i := range spoolAtOnce + 5 {
		n.spool(t, fmt.Sprintf("b%04d.json", i), encode(t, observation(fmt.Sprint("b", i), true)))
	}
	for _, want := range []int{spoolAtOnce, spoolAtOnce + 5} {
		if err := n.takeSpool(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(n.history.observations()); got != want {
			t.Errorf("%d observations, not %d", got, want)
		}
	}
}

// dead writes the record of a container of which nothing runs any more.
func (n *node) dead(t *testing.T, name string, change func(*record.Record)) record.Record {
	t.Helper()
	return n.record(t, name, func(r *record.Record) {
		r.ShimStart, r.PIDStart, r.Created = r.ShimStart+1, r.PIDStart+1, clock.Add(-2*orphanLeave)
		if change != nil {
			change(r)
		}
	})
}

func TestLeftoversOfDeadShimsAreCollected(t *testing.T) {
	n := newNode(t, nil)
	if err := os.MkdirAll(n.cfg.NotifyDir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket, foreign := filepath.Join(n.cfg.NotifyDir, "dead"), filepath.Join(t.TempDir(), "precious")
	if err := errors.Join(os.WriteFile(socket, nil, 0o600), os.WriteFile(foreign, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	n.dead(t, "dead", func(r *record.Record) { r.NotifySocket = socket })
	n.dead(t, "hostile", func(r *record.Record) { r.NotifySocket = foreign })
	n.dead(t, "young", func(r *record.Record) { r.Created = clock.Add(-orphanLeave / 2) })
	n.dead(t, "orphan", func(r *record.Record) { r.PIDStart-- }) // its process still runs
	n.record(t, "alive", func(r *record.Record) { r.Created = clock.Add(-2 * orphanLeave) })
	n.restart()
	n.admit(t, "dead") // as far as the daemon knows it runs
	n.collect(t.Context())

	for name, want := range map[string]bool{"dead": false, "hostile": false, "young": true, "orphan": true, "alive": true} {
		if _, err := n.cfg.Containers.Read(containerID(name)); (err == nil) != want {
			t.Errorf("record of %s: %v", name, err)
		}
	}
	if exists(t, socket) || !exists(t, foreign) {
		t.Error("the socket is still there, or a file elsewhere is gone")
	}
	if got := listed(t, n); !slices.Equal(got, []string{"alive"}) {
		t.Errorf("listed: %q", got)
	}
	cleaned := slices.DeleteFunc(n.journal.kinds(), func(k string) bool { return k != api.EventCleaned })
	if len(cleaned) != 2 {
		t.Errorf("%d collected", len(cleaned))
	}
	n.collect(t.Context())
	if again := slices.DeleteFunc(n.journal.kinds(), func(k string) bool { return k != api.EventCleaned }); len(again) != 2 {
		t.Error("collected twice")
	}
}

// What was being written when its writer died is removed, once it is certain that nobody writes it still.
func TestUnfinishedWorkIsRemoved(t *testing.T) {
	n := newNode(t, nil)
	unwritten := func(name string) string {
		dir, err := n.cfg.Containers.Path(containerID(name))
		if err := errors.Join(err, os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, record.TempPrefix+"1"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	half := func(dir, name string) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path, []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sealed := string(n.cfg.Sealed)
	goes := []string{unwritten("dead"), half(sealed, record.TempPrefix+"1"), half(n.cfg.SpoolDir, ".1")}
	stays := []string{unwritten("young"), half(sealed, record.TempPrefix+"2"), half(n.cfg.SpoolDir, ".2"), half(sealed, "0-a.sealed"), half(n.cfg.SpoolDir, "a.json")}
	for path, at := range map[string]time.Time{goes[0]: {}, goes[1]: {}, goes[2]: {}, stays[0]: clock, stays[1]: clock, stays[2]: clock, stays[3]: {}, stays[4]: {}} {
		if at.IsZero() {
			at = clock.Add(-2 * orphanLeave)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	n.collect(t.Context())
	for _, path := range goes {
		if exists(t, path) {
			t.Errorf("%s is still there", path)
		}
	}
	for _, path := range stays {
		if !exists(t, path) {
			t.Errorf("%s is gone", path)
		}
	}
}

// abandonable is a history that can be told of runs without an end.
type abandonable struct {
	*fakeHistory
	abandoned []string
}

func (h *abandonable) OpenRuns() []string { return nil }

func (h *abandonable) Abandon(_ context.Context, run string) error {
	h.abandoned = append(h.abandoned, run)
	return nil
}

// The delete process says whose shim died: the run has ended then, and that only once.
func TestRunEndsWithItsShim(t *testing.T) {
	n := newNode(t, nil)
	h := &abandonable{fakeHistory: n.history}
	n.Service = New(n.cfg, h, n.journal, identify(named), n.history, nil)
	n.admit(t, "dead")
	n.admit(t, "again")
	gone := func(name, run string) {
		err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Events: []api.Event{
			{ID: containerID(name), Run: run, Kind: api.EventCleaned, Message: "its shim died"}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	gone("dead", "dead-1")
	gone("again", "again-0") // the run before the one that goes on
	if got := listed(t, n); !slices.Equal(got, []string{"again"}) || !slices.Equal(h.abandoned, []string{"dead-1", "again-0"}) {
		t.Errorf("listed %q, abandoned %q", got, h.abandoned)
	}
}

// A decision of which only the record tells gets into the journal, once, and no older one gets in its way.
func TestDecisionsAreJournaledFromRecords(t *testing.T) {
	n := newNode(t, nil)
	admitted := n.admit(t, "known")
	for _, name := range []string{"killed", "known", "updated", "older"} {
		n.record(t, name, func(r *record.Record) {
			d := admitted
			d.Facts.ID, d.Facts.Run = r.ID, name+"-1"
			r.Run = d.Facts.Run
			switch name {
			case "updated":
				n.journal.AppendDecision(d)
				d.Revision = 2
			case "older":
				newer := d
				newer.Facts.Run, newer.Time = "older-2", d.Time.Add(time.Second)
				n.journal.AppendDecision(newer)
			}
			r.Decision = &d
		})
	}
	n.restart()
	n.audit(t.Context())
	for name, want := range map[string]string{"killed": "killed-1 1", "known": "known-1 1", "updated": "updated-1 2", "older": "older-2 1"} {
		if d := n.journal.decisions[containerID(name)]; fmt.Sprint(d.Facts.Run, " ", d.Revision) != want {
			t.Errorf("the journal has %s, revision %d; want %s", d.Facts.Run, d.Revision, want)
		}
	}
	n.journal.decisions = make(map[workload.ID]api.Decision)
	if n.audit(t.Context()); len(n.journal.decisions) != 0 {
		t.Errorf("journaled again: %v", n.journal.decisions)
	}
}

// An Admit whose Create failed leaves nothing but an entry, and that not for long.
func TestAdmittedButNeverCreated(t *testing.T) {
	now := clock
	n := newNode(t, func(c *Config) { c.Now = func() time.Time { return now } })
	n.admit(t, "failed")
	n.admit(t, "created")
	n.record(t, "created", nil)
	n.collect(t.Context())
	if got := listed(t, n); len(got) != 2 {
		t.Errorf("forgotten too soon: %q", got)
	}
	now = now.Add(orphanLeave + time.Second)
	n.collect(t.Context())
	if got := listed(t, n); !slices.Equal(got, []string{"created"}) {
		t.Errorf("listed: %q", got)
	}
}

// Nobody writes policies while Run does not: containers start all the same.
func TestFullSealQueueHoldsUpNobody(t *testing.T) {
	n := newNode(t, nil)
	for i := range sealQueue + 20 {
		n.admit(t, fmt.Sprint("c", i))
	}
	if len(n.seal) != sealQueue || len(n.running) != sealQueue+20 {
		t.Errorf("%d to seal, %d containers", len(n.seal), len(n.running))
	}
}

func TestRunSealsAndCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, func(c *Config) { c.Now = time.Now })
		n.spool(t, "gone-1.json", encode(t, observation("gone", true)))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		synctest.Wait()
		if len(n.history.observations()) != 1 {
			t.Error("the spool was not looked at in the beginning")
		}
		d := n.admit(t, "web")
		synctest.Wait()
		sealed, _, err := n.cfg.Sealed.Read(d.Facts.Keys())
		if err != nil || sealed.Facts.Run != d.Facts.Run || len(sealed.Table) != 0 {
			t.Errorf("sealed: %v", err)
		}
		n.spool(t, "late-1.json", encode(t, observation("late", true)))
		time.Sleep(upkeepEvery + time.Second)
		synctest.Wait()
		if len(n.history.observations()) != 2 {
			t.Error("the spool was not looked at again")
		}
		follower := make(chan api.EventsResponse, 1)
		go func() {
			r, _ := n.Events(t.Context(), api.EventsRequest{After: 100, Wait: time.Minute})
			follower <- r
		}()
		synctest.Wait()
		began := time.Now()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if <-follower; time.Since(began) != 0 {
			t.Error("who waits for events holds up the end")
		}
	})
}

// A shim without the daemon finds the policy by the layers of the root file system.
func TestSealedForTheTimeWithoutDaemon(t *testing.T) {
	n := newNode(t, nil)
	req := request(t, "web")
	req.Facts.Rootfs = []string{"/snapshots/9/fs", "/snapshots/2/fs", "/snapshots/1/fs"}
	d, err := n.Admit(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.sealPolicy(<-n.seal); err != nil {
		t.Fatal(err)
	}
	next := req.Facts
	next.Rootfs = []string{"/snapshots/10/fs", "/snapshots/2/fs", "/snapshots/1/fs"}
	key, ok := next.RootfsKey()
	if !ok {
		t.Fatal("no key")
	}
	if sealed, _, err := n.cfg.Sealed.Read([]workload.Key{key}); err != nil || sealed.Facts.Run != d.Facts.Run {
		t.Errorf("%v", err)
	}
}

// The same rights are not written again and again; new ones are at once, and sizes within a minute.
func TestSealedAgainOnlyForNews(t *testing.T) {
	now := clock
	n := newNode(t, func(c *Config) { c.Now = func() time.Time { return now } })
	admitted := func(annotations map[string]string) api.Decision {
		t.Helper()
		req := request(t, "web")
		req.Facts.Image, req.Facts.Annotations = workload.Image{Name: "web", Digest: "sha256:1"}, annotations
		d, err := n.Admit(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.sealPolicy(<-n.seal); err != nil {
			t.Fatal(err)
		}
		return d
	}
	onDisk := func(d api.Decision) bool {
		t.Helper()
		sealed, _, err := n.cfg.Sealed.Read(d.Facts.Keys())
		if err != nil {
			t.Fatal(err)
		}
		return sealed.Time.Equal(d.Time)
	}
	if !onDisk(admitted(nil)) {
		t.Error("the first policy is not sealed")
	}
	now = now.Add(time.Second)
	if onDisk(admitted(nil)) {
		t.Error("the same rights are written again a second later")
	}
	if !onDisk(admitted(map[string]string{"forefend.dev/syscalls.deny": "chmod"})) {
		t.Error("other rights are not sealed")
	}
	now = now.Add(resealAfter)
	if !onDisk(admitted(map[string]string{"forefend.dev/syscalls.deny": "chmod"})) {
		t.Error("sizes stay as they are for ever")
	}
}

// A daemon that was killed while it told of changes tells of those that no event was kept of, whoever asked it for them, and of no
// other: shims tell of their own.
func TestChangesAreToldFromRecords(t *testing.T) {
	n := newNode(t, nil)
	d := n.admit(t, "changed")
	of := func(a policy.Author, source, lever string) api.Change {
		return api.Change{Author: a, Source: source, Results: []api.Result{{Lever: lever, Status: api.ResultApplied}}}
	}
	changes := []struct {
		what  string
		made  api.Change
		times int
	}{
		{"told before", of(policy.Operator, "root", "resources"), 1},
		{"of an operator", of(policy.Operator, "root", "resources"), 1},
		{"for a risk", of(policy.Prediction, SourceRisk, "network"), 1},
		{"for a risk, of which a part failed", api.Change{Author: policy.Prediction, Source: SourceRisk}, 1},
		{"for a forecast", of(policy.Prediction, api.SourceAirbag, "resources"), 1},
		{"by the airbag", of(policy.Prediction, api.SourceAirbag, api.SourceAirbag), 0},
		{"for an application", of(policy.Request, "process 7 of the application", "resources"), 1},
		{"for a client of containerd", of(policy.Request, rewrite.SourceUpdate, "resources"), 0},
	}
	for i := range changes {
		d.Revision = i + 2
		changes[i].made.Revision = d.Revision
		d.Changes = append(d.Changes, changes[i].made)
	}
	n.publish(d.Changes[0].Event(d.Facts))
	n.record(t, "changed", func(r *record.Record) { r.Run, r.Decision = d.Facts.Run, &d })
	n.Service = New(n.cfg, n.history, n.journal, identify(named), n.history, n.journal.events)
	n.audit(t.Context())
	told := make(map[string]int)
	for _, e := range n.journal.events {
		if e.Kind == api.EventUpdated {
			told[e.Fields["revision"]]++
		}
	}
	for _, c := range changes {
		if times := told[strconv.Itoa(c.made.Revision)]; times != c.times {
			t.Errorf("a change %s was told of %d times, want %d", c.what, times, c.times)
		}
	}
}

// The next daemon may make a change before it has looked into the records: it tells of those that came before nevertheless.
func TestChangeAfterAKilledDaemon(t *testing.T) {
	n := newNode(t, nil)
	d := n.admit(t, "changed")
	d.Changes, d.Revision = []api.Change{{Revision: 2, Author: policy.Operator}}, 2
	n.record(t, "changed", func(r *record.Record) { r.Run, r.Decision = d.Facts.Run, &d })
	n.restart()
	after := d
	after.Changes, after.Revision = append(slices.Clone(d.Changes), api.Change{Revision: 3, Author: policy.Operator}), 3
	n.adjusted(t.Context(), d, api.AdaptResponse{Decision: after})
	n.audit(t.Context())
	var told []string
	for _, e := range n.journal.events {
		if e.Kind == api.EventUpdated {
			told = append(told, e.Fields["revision"])
		}
	}
	if !slices.Equal(told, []string{"2", "3"}) {
		t.Errorf("revisions were told of in this order: %q", told)
	}
}

// What a daemon has put into the journal by itself it does not read back for each change.
func TestJournalIsReadOnce(t *testing.T) {
	n := newNode(t, nil)
	before := n.admit(t, "changed")
	for i := range 3 {
		after := before
		after.Revision++
		after.Changes = append(slices.Clone(before.Changes), api.Change{Revision: after.Revision, Author: policy.Operator})
		n.adjusted(t.Context(), before, api.AdaptResponse{Decision: after})
		if n.journal.reads > 1 {
			t.Fatalf("the journal was read %d times for %d changes", n.journal.reads, i+1)
		}
		before = after
	}
	if kept := n.journal.decisions[before.Facts.ID]; kept.Revision != before.Revision {
		t.Errorf("the journal has revision %d, want %d", kept.Revision, before.Revision)
	}
}

// A shim may put a change in force for a daemon that is killed meanwhile, after the next one has read its record.
func TestChangeBesideAKilledDaemon(t *testing.T) {
	for what, next := range map[string]func(*node, api.Decision){
		"nothing else": func(n *node, _ api.Decision) { n.catchUp(t.Context()) },
		"the next change": func(n *node, d api.Decision) {
			after := d
			after.Changes, after.Revision = append(slices.Clone(d.Changes), api.Change{Revision: 3, Author: policy.Operator}), 3
			n.adjusted(t.Context(), d, api.AdaptResponse{Decision: after})
		},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, nil)
			d := n.admit(t, "changed")
			n.record(t, "changed", func(r *record.Record) { r.Run, r.Decision = d.Facts.Run, &d })
			n.restart()
			n.audit(t.Context())
			d.Changes, d.Revision = []api.Change{{Revision: 2, Author: policy.Operator}}, 2
			n.record(t, "changed", func(r *record.Record) { r.Run, r.Decision = d.Facts.Run, &d })
			next(n, d)
			told := slices.ContainsFunc(n.journal.events, func(e api.Event) bool { return e.Kind == api.EventUpdated && e.Fields["revision"] == "2" })
			n.mu.Lock()
			defer n.mu.Unlock()
			if now := n.running[d.Facts.ID].decision.Revision; !told || now < 2 {
				t.Errorf("revision 2 was told of: %t; known is %d", told, now)
			}
		})
	}
}
