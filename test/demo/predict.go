package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/test/e2e/harness"
)

// listed is an address that the demo's own feed lists. It is loopback's: nothing leaves the container.
const listed = "127.66.6.6"

// feed writes the feed that lists it and returns the configuration that reads it.
func feed() (dir, config string, err error) {
	if dir, err = os.MkdirTemp("", "ffdemo-feeds-"); err != nil {
		return "", "", err
	}
	err = os.WriteFile(filepath.Join(dir, "demo.netset"), []byte("# a list of the demo's own\n"+listed+"/32\n"), 0o600)
	return dir, fmt.Sprintf("[scan]\nfirst_scan_wait = \"30s\"\n[threats]\nfeeds = [%q]\n", dir), err
}

// decision is what explain says of a container.
func (d *demo) decision(ctx context.Context, id string) (api.Decision, error) {
	var decision api.Decision
	return decision, d.forefendJSON(ctx, &decision, "explain", id)
}

// firstRun starts an image that never ran here: its scan alone makes its first run tight.
func (d *demo) firstRun(ctx context.Context) error {
	d.step("busybox, which never ran on this node: its first run is tight from static analysis")
	const id = "first"
	if _, err := d.ctr(ctx, "run", "--rm", "--runtime", forefendRuntime, harness.Image("busybox"), id, "sh", "-c", "ls / | grep -c bin"); err != nil {
		return err
	}
	decided, err := d.decision(ctx, id)
	if err != nil {
		return err
	}
	native, watched, denied := tiers(decided)
	d.say("  at full speed %d calls, watched %d, denied %d", native, watched, denied)
	d.claim(decided.Scan != nil && len(decided.Scan.Syscalls) > 0, "it was decided by what its files can do, before its first instruction")
	d.claim(decided.Scan != nil && native <= len(decided.Scan.Syscalls)+30, "no more calls run unwatched than its code can make")
	return nil
}

func tiers(d api.Decision) (native, watched, denied int) {
	for _, v := range d.Effective.Members(policy.KeySyscalls) {
		switch {
		case v == policy.SyscallNative:
			native++
		case v == policy.SyscallWatch:
			watched++
		default:
			denied++
		}
	}
	return native, watched, denied
}

// inherit runs a second digest of redis: it starts from what the first one taught.
func (d *demo) inherit(ctx context.Context, s server) error {
	d.step("A new version of %s: another digest of the same image inherits what was learned", s.name)
	if err := d.newDigest(ctx, s.name); err != nil {
		return err
	}
	c, err := d.start(ctx, forefendRuntime, s.name, "second-digest")
	if err != nil {
		return err
	}
	if err := until(ctx, func() error { return s.ready(ctx, c.task.Pid()) }); err != nil {
		return err
	}
	decided, err := d.decision(ctx, "second-digest")
	if err != nil {
		return err
	}
	d.say("  digest %.20s…, %d earlier runs at level %s, memory bound %s", decided.Facts.Image.Digest, decided.Prediction.Runs, decided.Prediction.Level,
		policy.KeyMemory.Format(policy.Value(decided.Prediction.Memory.Value)))
	d.claim(decided.Prediction.Runs >= d.runs && decided.Prediction.Memory.Value > 0, "its first run knows what the other digest did")
	_, err = d.stop(ctx, c, s.stop)
	return err
}

// miner runs a script that has a miner's words in it and reaches for a listed address.
func (d *demo) miner(ctx context.Context) error {
	d.step("A container with a miner's strings that reaches for a listed address")
	const script = `echo "xmrig --donate-level 1 -o stratum+tcp://pool.example:3333 -a randomx" >/dev/null
		while :; do nc -w 1 ` + listed + ` 3333 </dev/null; sleep 1; done`
	if _, err := d.ctr(ctx, "run", "--detach", "--runtime", forefendRuntime, harness.Image("busybox"), "miner", "sh", "-c", script); err != nil {
		return err
	}
	defer func() {
		_, _ = d.ctr(ctx, "task", "rm", "-f", "miner")
		_, _ = d.ctr(ctx, "container", "rm", "miner")
	}()
	var decided api.Decision
	seen := until(ctx, func() (err error) {
		if decided, err = d.decision(ctx, "miner"); err != nil {
			return err
		}
		if len(decided.Findings.Contacts) == 0 {
			return fmt.Errorf("no contact with %s was seen", listed)
		}
		return nil
	})
	text, err := d.forefend(ctx, "explain", "miner")
	if err != nil {
		return err
	}
	d.show(section(text, "Risk "))
	d.show(section(text, "Seen of this run"))
	d.claim(seen == nil, "the contact with %s is an event and is kept with the container", listed)
	r := decided.Risk
	d.claim(decided.Scan != nil && slices.ContainsFunc(decided.Scan.Sinks, func(s evidence.Sink) bool { return s.Kind == "miner" }), "the scan of its script names the miner")
	d.claim(r != nil && r.Score >= 50, "its risk is %s", riskWords(r != nil, decided))
	return nil
}

func riskWords(known bool, d api.Decision) string {
	if !known {
		return "not known"
	}
	return fmt.Sprintf("%s, %.0f of 100", d.Risk.Level, d.Risk.Score)
}

// section is the paragraph of text that begins with heading.
func section(text, heading string) string {
	for part := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(part, heading) {
			return part
		}
	}
	return ""
}
