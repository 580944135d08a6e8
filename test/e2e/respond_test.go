package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

const (
	// listedAddress is one that the test's own feed lists. It is loopback's: nothing leaves the container.
	listedAddress = "127.66.6.6"
	// answerTime is within how long the policy of a running container has to answer a risk.
	answerTime = 2 * time.Second
)

// TestListedAddressIsAnswered and TestAttackPatternIsAnswered raise the risk of running containers and look at what becomes of
// their policy. Each has a node of its own: what code was caught at, its later runs are told.

// wary is a node with a feed or a file of attack patterns of its own, which forgives within seconds.
func wary(t *testing.T, name, text string) *host {
	t.Helper()
	feeds := t.TempDir()
	if err := os.WriteFile(filepath.Join(feeds, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return newHost(t, harness.WithConfig(fmt.Sprintf("[scan]\nenabled = false\n[threats]\nfeeds = [%q]\n[safeguards]\ncalm = \"3s\"\nchanges_per_minute = 10\n", feeds)))
}

// waiting is a container that does something once the file "go" is in the directory, and the directory.
func waiting(t *testing.T, then string) (container, string) {
	t.Helper()
	dir := t.TempDir()
	c := sh("while [ ! -e /m/go ]; do usleep 20000; done; "+then, "--mount=type=bind,src="+dir+",dst=/m,options=rbind:rw")
	return c, dir
}

func touch(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// answer waits for the event of a change for a risk, after a time, whose message has the words, and returns it.
func (h *host) answer(t *testing.T, id string, after time.Time, words ...string) (found event) {
	t.Helper()
	eventually(t, fmt.Sprintf("a change for the risk of %s that says %q", id, words), func() bool {
		for _, e := range h.events(t, id) {
			says := e.Time.After(after) && e.Kind == "updated" && e.Fields["source"] == "risk" && e.Fields["author"] == "prediction"
			for _, w := range words {
				says = says && strings.Contains(e.Message, w)
			}
			if says {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func TestListedAddressIsAnswered(t *testing.T) {
	h := wary(t, "drop.json", fmt.Sprintf(`{"cidr":"%s/32","sblid":"SBL1","rir":"ripencc"}`+"\n", listedAddress))
	c, dir := waiting(t, "nc -w 1 "+listedAddress+" 4000 </dev/null; sleep 1000")
	id := h.start(t, c)
	eventually(t, "the first report", func() bool { return h.row(t, id).PID > 0 })
	time.Sleep(time.Second) // past what a start reports
	began := time.Now()
	touch(t, dir, "go")
	e := h.answer(t, id, began, "safeguards", "egress_listed")
	took := e.Time.Sub(began)
	t.Logf("the contact was answered after %s: %s", took.Round(time.Millisecond), e.Message)
	if took > answerTime {
		t.Errorf("the contact was answered after %s, at most %s are to pass", took, answerTime)
	}
	if !strings.Contains(e.Fields["reason"], "threat contacts") || !strings.Contains(e.Fields["reason"], " % ") {
		t.Errorf("the reason does not give the factors' shares: %q", e.Fields["reason"])
	}
	if f, ok := h.explain(t, id).find("egress.feeds"); !ok || f.Text != "block" || f.Source != "risk" {
		t.Errorf("explain: egress.feeds is %+v (%s)", f, e.Message)
	}
	h.answer(t, id, began, "no longer", "egress_listed")
	if f, _ := h.explain(t, id).find("egress.feeds"); f.Text == "block" {
		t.Errorf("after calm: egress.feeds is %+v", f)
	}
	changes := 0
	for _, e := range h.events(t, id) {
		if e.Kind == "updated" {
			changes++
		}
	}
	if changes > 3 {
		t.Errorf("%d changes for one contact", changes)
	}
}

func TestAttackPatternIsAnswered(t *testing.T) {
	h := wary(t, "patterns.toml", `[[technique]]
id = "T1611"
name = "Escape to Host"
severity = 0.95
[[technique.rule]]
confidence = 0.95
why = "it changed its root"
any = ["chroot"]
`)
	const script = "[ -e /m/attack ] && chroot / true; [ -e /m/end ] && exit 0; sleep 1000"
	for range 4 { // from which what it calls is known
		c, dir := waiting(t, script)
		touch(t, dir, "end")
		touch(t, dir, "go")
		h.mustRun(t, c)
	}
	c, dir := waiting(t, script)
	id := h.start(t, c)
	if r := h.exec(id, "true"); r.Code != 0 {
		t.Fatal(r)
	}
	time.Sleep(time.Second)
	began := time.Now()
	touch(t, dir, "attack")
	touch(t, dir, "go")
	e := h.answer(t, id, began, "safeguards", "sensitive_calls")
	took := e.Time.Sub(began)
	t.Logf("the attack was answered after %s: %s", took.Round(time.Millisecond), e.Message)
	if took > answerTime {
		t.Errorf("the attack was answered after %s, at most %s are to pass", took, answerTime)
	}
	if f, ok := h.explain(t, id).find("syscalls/chroot"); !ok || f.Text != "deny" || f.Source != "risk" {
		t.Errorf("explain: chroot is %+v", f)
	}
	h.answer(t, id, began, "no longer", "sensitive_calls")
	eventually(t, "chroot is possible again", func() bool { return h.exec(id, "chroot", "/", "true").Code == 0 })
}
