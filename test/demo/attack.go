package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// attempts are the calls of the attack, by the names of test/images/probe, and what they are good for.
var attempts = []struct{ name, gain string }{
	{"unshare", "a mount namespace of its own"},
	{"clone_newuser", "root in a user namespace"},
	{"setns", "other containers' namespaces"},
	{"mount", "hide or replace files"},
	{"fsopen", "the same, by newer calls"},
	{"ptrace", "take over other processes"},
	{"process_vm_readv", "read other processes' memory"},
	{"bpf", "code in the kernel"},
	{"perf_event_open", "side channels, kernel bugs"},
	{"keyctl", "the kernel's keyrings"},
	{"add_key", "kernel memory at its will"},
	{"io_uring_setup", "calls that no filter sees"},
	{"userfaultfd", "win races in the kernel"},
}

// verdict is a line of the probe.
type verdict struct {
	Name   string `json:"name"`
	Result string `json:"result"`
	Errno  int    `json:"errno"`
}

// passed tells whether the call succeeded, or failed only because the probe's arguments are harmless: it was carried
// out by the kernel.
func (v verdict) passed() bool {
	return v.Errno >= 0 && !slices.Contains([]syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENOSYS}, syscall.Errno(v.Errno))
}

func (v verdict) words() string {
	switch {
	case v.Name == "":
		return "?"
	case v.Errno == 0:
		return "ALLOWED"
	case v.passed():
		return "ALLOWED, " + v.Result
	}
	return v.Result
}

const attackRow = "  %-17s %-16s %-16s %-16s %s"

// attack breaks into a running server and tries what intruders try; the same under stock runc, with and without
// containerd's default seccomp profile.
func (d *demo) attack(ctx context.Context, s server) error {
	d.step("An attack: somebody broke into %s and runs a program inside its container", s.name)
	const id = "broken-into"
	governed, err := d.breakIn(ctx, forefendRuntime, s, id)
	if err != nil {
		return fmt.Errorf("under Forefend: %w", err)
	}
	stock, err := d.breakIn(ctx, stockRuntime, s, "stock")
	if err != nil {
		return fmt.Errorf("under stock runc: %w", err)
	}
	filtered, err := d.breakIn(ctx, stockRuntime, s, "stock-seccomp", "--seccomp")
	if err != nil {
		return fmt.Errorf("under stock runc with seccomp: %w", err)
	}
	d.say(attackRow, "", "", "stock runc", "stock runc", "")
	d.say(attackRow, "call", "Forefend", "(ctr run)", "with --seccomp", "what it is good for")
	for _, a := range attempts {
		d.say(attackRow, a.name, governed[a.name].words(), stock[a.name].words(), filtered[a.name].words(), a.gain)
	}
	d.say("")
	var through []string
	more := 0
	for _, a := range attempts {
		if v := governed[a.name]; v.Name == "" || v.passed() {
			through = append(through, a.name)
		}
		if stock[a.name].passed() {
			more++
		}
	}
	d.claim(len(through) == 0, "Forefend let none of the %d calls through%s", len(attempts), list(" (these passed: ", through))
	d.claim(more > 0, "stock runc let %d of them through", more)
	return d.aftermath(ctx, id)
}

func list(lead string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return lead + strings.Join(names, ", ") + ")"
}

// breakIn starts the server with the probe mounted, runs the attack by exec, and checks that the server still serves.
func (d *demo) breakIn(ctx context.Context, runtime string, s server, id string, flags ...string) (map[string]verdict, error) {
	flags = append(flags, "--mount", "type=bind,src="+d.env.Probe()+",dst=/srv/probe,options=rbind:ro")
	c, err := d.start(ctx, runtime, s.name, id, flags...)
	if err != nil {
		return nil, err
	}
	if err := until(ctx, func() error { return s.ready(ctx, c.task.Pid()) }); err != nil {
		return nil, fmt.Errorf("%s does not answer: %w", s.name, err)
	}
	args := []string{"task", "exec", "--exec-id", "intruder", id, "/srv/probe", "attack", "--json"}
	for _, a := range attempts {
		args = append(args, a.name)
	}
	text, err := d.ctr(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	verdicts := make(map[string]verdict)
	for line := range strings.Lines(text) {
		var v verdict
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			return nil, fmt.Errorf("the probe printed %q: %w", line, err)
		}
		verdicts[v.Name] = v
	}
	if err := s.ready(ctx, c.task.Pid()); err != nil {
		return nil, fmt.Errorf("%s does not answer after the attack: %w", s.name, err)
	}
	_, err = d.stop(ctx, c, unix.SIGKILL)
	return verdicts, err
}

// aftermath shows what Forefend recorded of the attack.
func (d *demo) aftermath(ctx context.Context, id string) error {
	d.step("What was seen of it: forefend events %s", id)
	var denied map[string]bool
	err := until(ctx, func() error { // the shim reports in batches
		text, err := d.forefend(ctx, "events", "--json", id)
		if err != nil {
			return err
		}
		denied = make(map[string]bool)
		exited := false
		for line := range strings.Lines(text) {
			var e api.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return err
			}
			exited = exited || e.Kind == api.EventExited
			if e.Kind == api.EventDenied {
				denied[e.Fields["syscall"]] = true
			}
		}
		if !exited {
			return fmt.Errorf("no event says that %s exited", id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	text, err := d.forefend(ctx, "events", id)
	if err != nil {
		return err
	}
	d.show(text)
	d.say("")
	var missing []string
	for _, a := range attempts {
		if name, _, _ := strings.Cut(a.name, "_newuser"); !denied[name] {
			missing = append(missing, name)
		}
	}
	d.claim(len(missing) == 0, "each of the %d calls is on record as denied by Forefend%s", len(attempts), list(" (not: ", missing))
	return nil
}
