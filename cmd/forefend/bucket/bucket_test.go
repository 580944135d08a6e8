package bucket

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	deny = pdp.Options{Default: flow.Profile{Deny: true}}
	// at is the time of everything.
	at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// rig is a bucket in a store that can be opened again.
type rig struct {
	*Bucket
	t     *testing.T
	dir   string
	store *store.Store

	mu   sync.Mutex
	told []Change // guarded by mu
}

func open(t *testing.T, dir string, o pdp.Options) *rig {
	t.Helper()
	s, err := store.Open(t.Context(), dir, store.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r := &rig{t: t, dir: dir, store: s}
	r.Bucket, err = Open(t.Context(), s, o, func() time.Time { return at }, func(c Change) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// again closes the store and opens it as the next daemon does.
func (r *rig) again(o pdp.Options) *rig {
	r.t.Helper()
	if err := r.store.Close(); err != nil {
		r.t.Fatal(err)
	}
	return open(r.t, r.dir, o)
}

// push has to succeed.
func (r *rig) push(files map[string][]byte) api.RuleChange {
	r.t.Helper()
	made, err := r.Push(r.t.Context(), api.RulePush{Files: files, Author: "root", Reason: "why not"})
	if err != nil {
		r.t.Fatal(err)
	}
	return made
}

// decide says what becomes of a request to a host: "deny", or "allow" with the source of the rule that does.
func (r *rig) decide(host string) string {
	r.t.Helper()
	set, _ := r.Rules()
	if set == nil {
		return "none"
	}
	d := set.Decide(&flow.Context{Version: flow.Version, Host: host, Data: "public"}, pdp.Moment{Now: at})
	if d.Profile.Deny {
		return "deny"
	}
	return "allow by " + d.Matches[0].Reason
}

// allows is rules that allow a host, with a test of that.
func allows(host string) map[string][]byte {
	return map[string][]byte{
		"rules.toml": fmt.Appendf(nil, "[[rule]]\nname = %q\nwhen = 'host == %q'\ntunnel = { encryption = \"none\" }\n", host, host),
		"tests.toml": fmt.Appendf(nil, "[[test]]\nname = \"it\"\ncontext = { host = %q, data = \"public\" }\nexpect = { tunnel = { encryption = \"none\" } }\n", host),
	}
}

// TestPush: rules that are pushed are in force at once, whoever waits is told, and in the next daemon they are as well.
func TestPush(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	if got := r.decide("a"); got != "deny" || !strings.Contains(r.Warning(), "there are no egress rules in the store") || len(r.told) != 1 || !r.told[0].Began {
		t.Fatalf("an empty bucket: %s, %q, %+v", got, r.Warning(), r.told)
	}
	if _, err := r.Pull(t.Context(), api.RulePull{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := r.Rollback(t.Context(), api.RuleRollback{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	before, _ := r.Watch()
	waited := make(chan uint64, 1)
	go func() { waited <- r.Await(t.Context(), before) }()
	made := r.push(allows("a"))
	if made.Number != 1 || made.Unchanged || made.Rules != 1 || made.Tests != 1 || made.Files != 2 || !made.Time.Equal(at) || <-waited != made.Epoch || r.Warning() != "" {
		t.Errorf("%+v, warning %q", made, r.Warning())
	}
	if got := r.decide("a"); !strings.HasPrefix(got, "allow by rules.toml:1 of version 1: ") {
		t.Error(got)
	}
	if set, _ := r.Rules(); set.Decide(&flow.Context{}, pdp.Moment{}).RuleVersion != "1" {
		t.Error("decisions do not tell the version")
	}
	if last := r.told[len(r.told)-1]; len(r.told) != 2 || last.Began || last.Version.Author != "root" || last.Version.Reason != "why not" || last.Epoch != made.Epoch {
		t.Errorf("%+v", r.told)
	}
	if again := r.push(allows("a")); !again.Unchanged || again.Number != 1 || again.Epoch != made.Epoch || len(r.told) != 2 {
		t.Errorf("the same again: %+v", again)
	}
	r.push(allows("b"))

	r = r.again(deny)
	if got := r.decide("b"); !strings.HasPrefix(got, "allow") || r.decide("a") != "deny" || r.Warning() != "" || r.told[0].Version.Number != 2 {
		t.Errorf("in the next daemon: %s, %q, %+v", got, r.Warning(), r.told)
	}
	list, err := r.Versions(t.Context())
	if err != nil || list.InForce != 2 || len(list.Versions) != 2 || list.Versions[0].Number != 2 || list.Versions[1].Digest != made.Digest {
		t.Errorf("%+v, %v", list, err)
	}
	for number, host := range map[uint64]string{0: "b", 1: "a", 2: "b"} {
		got, err := r.Pull(t.Context(), api.RulePull{Version: number})
		if want := allows(host); err != nil || len(got.Contents) != 2 || string(got.Contents["rules.toml"]) != string(want["rules.toml"]) || got.Digest != rules.Digest(want) {
			t.Errorf("version %d: %+v, %v", number, got, err)
		}
	}
	if _, err := r.Pull(t.Context(), api.RulePull{Version: 3}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if v, found, err := Peek(r.dir); err != nil || !found || v.Number != 2 {
		t.Errorf("%+v, %v, %v", v, found, err)
	}
	if made := r.push(allows("c")); made.Number != 3 {
		t.Errorf("%+v", made)
	}
}

// TestRefused: what is not in order changes nothing, and the answer says where it is.
func TestRefused(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	r.push(allows("a"))
	many := make(map[string][]byte)
	for i := range MaxFiles + 1 {
		many[fmt.Sprintf("%d.toml", i)] = nil
	}
	failing := allows("a")
	failing["tests.toml"] = []byte("[[test]]\nname = \"secret is strong\"\ncontext = { host = \"a\", data = \"public\" }\nexpect = { tunnel = { encryption = \"strong\" } }\n")
	one := func(name, text string) map[string][]byte { return map[string][]byte{name: []byte(text)} }
	for what, refused := range map[string]struct {
		files map[string][]byte
		says  string
	}{
		"a condition":       {one("a.toml", "[[rule]]\nname = 'x'\nwhen = 'nonsense'\ndeny = true\n"), "a.toml:3:9: rule.when: undeclared reference to 'nonsense'"},
		"a key":             {one("a.toml", "[[rule]]\nname = 'x'\nwhen = 'true'\ndenny = true\ndeny = true\n"), "a.toml:4:1: rule.denny: unknown key"},
		"no TOML":           {one("a.toml", "\x00"), "a.toml:1"},
		"no text":           {one("a.toml", "#\xff\n"), "a.toml"},
		"a failing test":    {failing, "tests.toml:1: secret is strong: encryption: want strong, got none"},
		"no files":          {nil, "no rule files"},
		"too many":          {many, "257 rule files"},
		"too large":         {one("a.toml", strings.Repeat("#", MaxBytes)), "2 MiB"},
		"a large file":      {one("a.toml", strings.Repeat("#", config.MaxRuleFile+1)), "1024 KiB"},
		"a path":            {one("../a.toml", ""), "no name for a rule file"},
		"a hidden one":      {one(".a.toml", ""), "no name for a rule file"},
		"another kind":      {one("a.txt", ""), "no name for a rule file"},
		"a long name":       {one(strings.Repeat("a", 200)+".toml", ""), "no name for a rule file"},
		"what fools a term": {one("a\x1b[1m.toml", ""), "no name for a rule file"},
	} {
		_, err := r.Push(t.Context(), api.RulePush{Files: refused.files, Author: "root"})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), refused.says) || len(err.Error()) > 2*maxWhy {
			t.Errorf("%s: %v", what, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Push(ended, api.RulePush{Files: allows("b"), Author: "root"}); !errors.Is(err, context.Canceled) {
		t.Errorf("one that nobody waits for: %v", err)
	}
	if list, err := r.Versions(t.Context()); err != nil || list.InForce != 1 || len(list.Versions) != 1 || len(r.told) != 2 {
		t.Errorf("%+v, %v; %+v", list, err, r.told)
	}
	if r = r.again(deny); r.told[0].Version.Number != 1 || !strings.HasPrefix(r.decide("a"), "allow") {
		t.Errorf("in the next daemon: %+v", r.told)
	}
}

// TestWhoSaysSo: what callers say of themselves is bounded and fools no terminal.
func TestWhoSaysSo(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	made, err := r.Push(t.Context(), api.RulePush{Files: allows("a"), Author: strings.Repeat("ä", 100), Reason: "a\x1b[1mb\nc\xff"})
	if err != nil || made.Author != strings.Repeat("ä", maxAuthor/2) || made.Reason != "a?[1mb c?" {
		t.Errorf("%+v, %v", made, err)
	}
}

// TestRollback goes back and forth.
func TestRollback(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	for _, host := range []string{"a", "b", "c"} {
		r.push(allows(host))
	}
	for _, step := range []struct {
		to, from, number uint64
		host             string
	}{{0, 2, 4, "b"}, {0, 3, 5, "c"}, {1, 1, 6, "a"}} {
		made, err := r.Rollback(t.Context(), api.RuleRollback{To: step.to, Author: "root"})
		if err != nil || made.Number != step.number || made.From != step.from || !strings.HasPrefix(r.decide(step.host), "allow") {
			t.Errorf("%+v: %+v, %v", step, made, err)
		}
	}
	if made, err := r.Rollback(t.Context(), api.RuleRollback{To: 1}); err != nil || !made.Unchanged || made.Number != 6 {
		t.Errorf("to what is in force: %+v, %v", made, err)
	}
	if _, err := r.Rollback(t.Context(), api.RuleRollback{To: 7}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if r = r.again(deny); !strings.HasPrefix(r.decide("a"), "allow") || r.told[0].Version.From != 1 {
		t.Errorf("in the next daemon: %+v", r.told)
	}
}

// TestAtOnce: pushes at the same time are versions one after the other, and the last is in force.
func TestAtOnce(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	const pushes = 12
	var all sync.WaitGroup
	var mu sync.Mutex
	hosts := make(map[uint64]string)
	for i := range pushes {
		all.Go(func() {
			host := fmt.Sprintf("h%d", i)
			made, err := r.Push(t.Context(), api.RulePush{Files: allows(host), Author: "root"})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			hosts[made.Number] = host
		})
	}
	all.Wait()
	if len(hosts) != pushes || hosts[pushes] == "" || !strings.HasPrefix(r.decide(hosts[pushes]), "allow") {
		t.Errorf("%v", hosts)
	}
	if r = r.again(deny); !strings.HasPrefix(r.decide(hosts[pushes]), "allow") || r.told[0].Version.Number != pushes {
		t.Errorf("in the next daemon: %+v", r.told)
	}
}

// TestOldOnesGo: a bounded number of versions is kept.
func TestOldOnesGo(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	const more = 3
	for i := range store.MaxRules + more {
		r.push(allows(fmt.Sprint("h", i)))
	}
	for _, next := range []bool{false, true} {
		if next {
			r = r.again(deny)
		}
		list, err := r.Versions(t.Context())
		if err != nil || len(list.Versions) != store.MaxRules || list.Versions[0].Number != store.MaxRules+more || list.InForce != store.MaxRules+more || r.Warning() != "" {
			t.Fatalf("%d versions, %+v, %v", len(list.Versions), list.Versions[0], err)
		}
		if _, err := r.Pull(t.Context(), api.RulePull{Version: more}); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
		if v, err := r.Pull(t.Context(), api.RulePull{Version: more + 1}); err != nil || v.Number != more+1 {
			t.Errorf("%+v, %v", v, err)
		}
	}
}

// newest is the record of the newest version.
func (r *rig) newest() store.Record {
	r.t.Helper()
	got, err := r.store.Newest(r.t.Context(), store.Rules, subject, 1)
	if err != nil || len(got) != 1 {
		r.t.Fatal(got, err)
	}
	return got[0]
}

func (r *rig) append(body []byte) {
	r.t.Helper()
	if _, err := r.store.Append(r.t.Context(), store.Rules, subject, body); err != nil {
		r.t.Fatal(err)
	}
}

// spoil damages the second copy of the newest version.
func (r *rig) spoil() {
	r.t.Helper()
	path := filepath.Join(r.dir, snapshot+".snapshot")
	body, err := os.ReadFile(path)
	if err == nil {
		body[len(body)/2] ^= 1
		err = os.WriteFile(path, body, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// TestDamage: one copy of the newest version is enough; with both gone the one before is in force, and that is said until somebody
// pushes.
func TestDamage(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	r.push(allows("a"))
	r.push(allows("b"))
	r.store.SetAsideRecord(store.Rules, r.newest(), errors.New("a bad disk"))
	if r = r.again(deny); !strings.HasPrefix(r.decide("b"), "allow") || r.Warning() != "" || r.told[0].Version.Number != 2 {
		t.Errorf("without its record: %q, %+v", r.Warning(), r.told)
	}
	if list, _ := r.Versions(t.Context()); len(list.Versions) != 2 || list.InForce != 2 {
		t.Errorf("%+v", list)
	}
	r.push(allows("c"))
	if _, err := r.Pull(t.Context(), api.RulePull{Version: 2}); !errdefs.IsDataLoss(err) {
		t.Errorf("a version whose record is gone: %v", err)
	}
	r.spoil()
	if r = r.again(deny); !strings.HasPrefix(r.decide("c"), "allow") || r.Warning() != "" {
		t.Errorf("without the second copy: %q", r.Warning())
	}
	if v, found, err := Peek(r.dir); err != nil || !found || v.Number != 3 {
		t.Errorf("the second copy is not there again: %v, %v", found, err)
	}
	r.push(allows("d"))
	r.store.SetAsideRecord(store.Rules, r.newest(), errors.New("a bad disk"))
	r.spoil()
	for range 2 {
		if r = r.again(deny); !strings.HasPrefix(r.decide("c"), "allow") || !strings.Contains(r.Warning(), "version 3 is in force instead") || r.told[0].Warning == "" {
			t.Errorf("without both: %q, %+v", r.Warning(), r.told)
		}
	}
	if made := r.push(allows("c")); made.Unchanged || made.Number != 5 || r.Warning() != "" {
		t.Errorf("what is in force because of damage is pushed: %+v, %q", made, r.Warning())
	}
}

// TestDamageOfAll: that there were rules is known, and without them nothing leaves.
func TestDamageOfAll(t *testing.T) {
	r := open(t, t.TempDir(), pdp.Options{Default: flow.Profile{}})
	r.append([]byte(`{"format": 1, "version": 1`))
	r.append([]byte(`{"format": 1, "version": 2, "digest": "sha256:00", "contents": {"a.toml": ""}}`))
	r = r.again(pdp.Options{Default: flow.Profile{}})
	if got := r.decide("a"); got != "none" || !strings.Contains(r.Warning(), "damaged") || len(r.store.SetAside()) != 2 {
		t.Errorf("%s, %q, set aside %q", got, r.Warning(), r.store.SetAside())
	}
	if made := r.push(allows("a")); made.Number != 3 || !strings.HasPrefix(r.decide("a"), "allow") {
		t.Errorf("%+v", made)
	}
}

// TestLater: what a later release wrote is left alone, and without understanding it nothing leaves.
func TestLater(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	r.push(allows("a"))
	r.append([]byte(`{"format": 2, "version": 2}`))
	r = r.again(deny)
	if got := r.decide("a"); got != "none" || !strings.Contains(r.Warning(), "later release") || len(r.store.SetAside()) != 0 {
		t.Errorf("%s, %q, set aside %q", got, r.Warning(), r.store.SetAside())
	}
	if list, _ := r.Versions(t.Context()); list.InForce != 0 || len(list.Versions) != 1 {
		t.Errorf("%+v", list)
	}
	made, err := r.Rollback(t.Context(), api.RuleRollback{To: 1, Author: "root"})
	if err != nil || made.Number != 3 || made.From != 1 || !strings.HasPrefix(r.decide("a"), "allow") {
		t.Errorf("%+v, %v", made, err)
	}
	if r = r.again(deny); !strings.HasPrefix(r.decide("a"), "allow") || r.Warning() != "" {
		t.Errorf("%q", r.Warning())
	}
}

// TestOtherOptions: rules that are not in order under the configuration of today let nothing out, and are still there.
func TestOtherOptions(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	r.push(allows("a"))
	other := deny
	other.Amend = []pdp.Rule{{Name: "a", When: "true", Source: "config.toml"}} // of a name that is taken
	r = r.again(other)
	if got := r.decide("a"); got != "none" || !strings.Contains(r.Warning(), "version 1 of the egress rules is not in order under this configuration") {
		t.Errorf("%s, %q", got, r.Warning())
	}
	if r = r.again(deny); !strings.HasPrefix(r.decide("a"), "allow") || r.Warning() != "" {
		t.Errorf("%q", r.Warning())
	}
}

// TestClosed: without a store nothing is changed, and no number is given twice.
func TestClosed(t *testing.T) {
	r := open(t, t.TempDir(), deny)
	r.push(allows("a"))
	if err := r.store.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := r.Push(ctx, api.RulePush{Files: allows("b"), Author: "root"}); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if got := r.decide("b"); got != "deny" || len(r.told) != 2 {
		t.Errorf("%s, %+v", got, r.told)
	}
}

func sampleVersion() api.RuleFiles {
	files := allows("example.com")
	return api.RuleFiles{Contents: files, RuleVersion: api.RuleVersion{
		Number: 7, Time: at, Author: "root", Reason: "ticket 4711", From: 3, Digest: rules.Digest(files), Files: 2, Rules: 1, Tests: 1, Bytes: size(files)}}
}

// TestGolden: what this release writes is what it wrote before, and is understood.
func TestGolden(t *testing.T) {
	const file = "testdata/version-v1"
	want := sampleVersion()
	body, err := encode(want)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil || string(golden) != string(body) {
		t.Errorf("%v\ngot  %s\nwant %s", err, body, golden)
	}
	if got, err := decode(golden); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// FuzzVersion reads anything as a record: what is taken is within the bounds and as its digest says, and is written as it was read.
func FuzzVersion(f *testing.F) {
	golden, err := os.ReadFile("testdata/version-v1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"version":1,"contents":{"a.toml":"IyE="},"digest":""}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := decode(body)
		if err != nil {
			return
		}
		if v.Number == 0 || Check(v.Contents) != nil || rules.Digest(v.Contents) != v.Digest {
			t.Fatalf("%+v", v)
		}
		again, err := encode(v)
		if err != nil {
			t.Fatal(err)
		}
		if w, err := decode(again); err != nil || w.Digest != v.Digest || w.Number != v.Number {
			t.Fatalf("%+v, %v", w, err)
		}
	})
}

// FuzzPush reads anything as a request: what comes of it is rules that decide, or an error that is bounded.
func FuzzPush(f *testing.F) {
	body, err := json.Marshal(api.RulePush{Files: allows("a"), Author: "root", Reason: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"files":{"a.toml":"W1tydWxlXV0K","../b":""},"author":"\u001b"}`))
	b := &Bucket{options: deny, now: func() time.Time { return at }}
	f.Fuzz(func(t *testing.T, body []byte) {
		var r api.RulePush
		if json.Unmarshal(body, &r) != nil || Check(r.Files) != nil {
			return
		}
		if a := clean(r.Author, maxAuthor); len(a) > maxAuthor || strings.ContainsAny(a, "\x1b\n\x00") {
			t.Errorf("%q", a)
		}
		var v api.RuleVersion
		set, err := b.compile(context.Background(), r.Files, &v)
		switch {
		case err != nil && len(err.Error()) > 2*maxWhy:
			t.Errorf("%d bytes: %.200s", len(err.Error()), err)
		case err == nil && v.Files != len(r.Files):
			t.Errorf("%+v", v)
		case err == nil:
			set.Decide(&flow.Context{Version: flow.Version, Host: "a"}, pdp.Moment{Now: at})
		}
	})
}
