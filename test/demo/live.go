package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/test/e2e/harness"
)

// live changes running containers: limits, system calls and the network.
func (d *demo) live(ctx context.Context) error {
	if err := d.squeeze(ctx, redis()); err != nil {
		return fmt.Errorf("squeeze: %w", err)
	}
	if err := d.forbid(ctx, redis()); err != nil {
		return fmt.Errorf("forbid a call: %w", err)
	}
	if err := d.cutOff(ctx); err != nil {
		return fmt.Errorf("cut off: %w", err)
	}
	return nil
}

// set changes a running container as a person would, shows what was printed, and reports whether all of it was done.
func (d *demo) set(ctx context.Context, args ...string) bool {
	d.say("  $ forefend %s", strings.Join(args, " "))
	text, err := d.forefend(ctx, args...)
	d.show(indented(text))
	if err != nil && text == "" {
		d.show(indented(err.Error()))
	}
	return err == nil
}

func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

// squeeze gives a running redis less than it uses, which is refused, and then grows it past what was predicted.
func (d *demo) squeeze(ctx context.Context, s server) error {
	d.step("A running %s is squeezed, grows past what was predicted, and is rescued", s.name)
	const id = "squeezed"
	c, err := d.start(ctx, forefendRuntime, s.name, id)
	if err != nil {
		return err
	}
	if err := until(ctx, func() error { return s.ready(ctx, c.task.Pid()) }); err != nil {
		return err
	}
	if err := d.populate(ctx, c, "first", 40); err != nil {
		return err
	}
	d.claim(!d.set(ctx, "set", id, "memory=16Mi"), "less than it holds is refused, and nothing is killed")
	if err := s.ready(ctx, c.task.Pid()); err != nil {
		return err
	}
	before, err := d.seen(ctx, id)
	if err != nil {
		return err
	}
	const grown = 400
	if err := d.populate(ctx, c, "second", grown); err != nil {
		return fmt.Errorf("growing by %d MiB: %w", grown, err)
	}
	var used int64
	if err := until(ctx, func() error {
		now, err := d.seen(ctx, id)
		if err != nil {
			return err
		}
		used = now.Usage.MemoryPeak
		if used < grown<<20 {
			return fmt.Errorf("its peak is seen at %s", output.Bytes(used))
		}
		return nil
	}); err != nil {
		return err
	}
	d.say("  predicted %s, hard limit %s at its start, peak now %s", output.Bytes(int64(before.Prediction.Memory.Value)), output.Bytes(before.Limits.Memory), output.Bytes(used))
	d.claim(s.ready(ctx, c.task.Pid()) == nil, "it outgrew its prediction and still answers")
	decided, err := d.decision(ctx, id)
	if err != nil {
		return err
	}
	for _, change := range decided.Changes {
		d.say("  revision %d by %s: %s", change.Revision, change.Source, strings.Join(change.Changed, ", "))
	}
	_, err = d.stop(ctx, c, s.stop)
	return err
}

// populate makes redis hold so many MiB more, in steps of a few.
func (d *demo) populate(ctx context.Context, c *started, prefix string, mib int) error {
	const step = 8
	for n := range mib / step {
		key := fmt.Sprintf("%s-%d", prefix, n)
		text, err := inNetwork(ctx, c.task.Pid(), "redis-cli", "setrange", key, strconv.Itoa(step<<20-1), "x")
		if err == nil && strings.TrimSpace(text) != strconv.Itoa(step<<20) {
			err = fmt.Errorf("redis said %q", text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forbid takes a system call from a running container, between two commands, and gives it back.
func (d *demo) forbid(ctx context.Context, s server) error {
	d.step("A system call is forbidden, and allowed again, between two commands")
	const id = "forbidden"
	c, err := d.start(ctx, forefendRuntime, s.name, id)
	if err != nil {
		return err
	}
	if err := until(ctx, func() error { return s.ready(ctx, c.task.Pid()) }); err != nil {
		return err
	}
	ask := func(n int) error {
		text, err := d.ctr(ctx, "task", "exec", "--exec-id", fmt.Sprintf("ask-%d", n), id, "redis-cli", "ping")
		d.say("  $ ctr task exec %s redis-cli ping", id)
		said := strings.TrimSpace(text)
		if err == nil && said != "PONG" {
			err = errors.New(said)
		}
		if err != nil {
			said = strings.TrimSpace(said + " " + lastLine(err.Error()))
		}
		d.say("    %s", said)
		return err
	}
	d.claim(ask(1) == nil, "it can connect")
	if !d.set(ctx, "set", id, "syscalls.deny=connect") {
		return errors.New("forefend set failed")
	}
	d.claim(ask(2) != nil, "the next connect is refused, without a restart")
	if !d.set(ctx, "unset", id, "syscalls/connect") {
		return errors.New("forefend unset failed")
	}
	d.claim(ask(3) == nil, "and allowed again")
	text, err := d.forefend(ctx, "events", id)
	if err != nil {
		return err
	}
	d.say("  $ forefend events %s", id)
	d.show(indented(text))
	_, err = d.stop(ctx, c, s.stop)
	return err
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// The two ends of the wire between a container and its neighbour, in namespaces that the demo made.
const (
	neighbour = "192.0.2.1"
	own       = "192.0.2.2"
)

// cutOff turns the network of a running container off and on under a ping loop.
func (d *demo) cutOff(ctx context.Context) error {
	d.step("The network of a running container goes off and on under a loop of pings")
	const id = "pinging"
	dir, err := os.MkdirTemp("", "ffdemo-ping-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log := filepath.Join(dir, "log")
	const loop = `while :; do if ping -c 1 -W 1 ` + neighbour + ` >/dev/null 2>&1; then echo up; else echo down; fi; sleep 0.1; done`
	if _, err := d.ctr(ctx, "run", "--detach", "--runtime", forefendRuntime, "--log-uri", "file://"+log, harness.Image("busybox"), id, "sh", "-c", loop); err != nil {
		return err
	}
	defer func() {
		_, _ = d.ctr(ctx, "task", "rm", "-f", id)
		_, _ = d.ctr(ctx, "container", "rm", id)
	}()
	_, task, err := d.task(ctx, id)
	if err != nil {
		return err
	}
	hangUp, err := connect(ctx, task.Pid())
	if err != nil {
		return err
	}
	defer hangUp()
	state := func(want string) error {
		return until(ctx, func() error {
			text, err := os.ReadFile(log)
			if err == nil && !strings.HasSuffix(string(text), want+"\n"+want+"\n") {
				err = fmt.Errorf("the last pings say %q", tail(string(text)))
			}
			return err
		})
	}
	d.claim(state("up") == nil, "its neighbour answers")
	if !d.set(ctx, "set", id, "network=off") {
		return errors.New("forefend set failed")
	}
	d.claim(state("down") == nil, "nothing but loopback is left to it")
	if !d.set(ctx, "unset", id, "network") {
		return errors.New("forefend unset failed")
	}
	d.claim(state("up") == nil, "its neighbour answers again")
	return nil
}

func tail(text string) string {
	return text[max(0, len(text)-20):]
}

// connect makes a wire between the network namespace of pid and a new one, which ends with what it returns.
func connect(ctx context.Context, pid uint32) (hangUp func(), err error) {
	far := exec.CommandContext(ctx, "unshare", "--net", "sleep", "300")
	if err := far.Start(); err != nil {
		return nil, err
	}
	hangUp = func() {
		_ = far.Process.Signal(unix.SIGKILL)
		_ = far.Wait()
	}
	apart := func() error {
		a, err := os.Readlink("/proc/thread-self/ns/net")
		b, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", far.Process.Pid))
		if err == nil && err2 == nil && a == b {
			err = errors.New("unshare has not made its namespace yet")
		}
		return errors.Join(err, err2)
	}
	if err := until(ctx, apart); err != nil {
		hangUp()
		return nil, err
	}
	farPID := strconv.Itoa(far.Process.Pid)
	for _, step := range []struct {
		pid  uint32
		args []string
	}{
		{pid, []string{"link", "add", "ffdemo0", "type", "veth", "peer", "name", "ffdemo1", "netns", farPID}},
		{pid, []string{"addr", "add", own + "/30", "dev", "ffdemo0"}},
		{pid, []string{"link", "set", "ffdemo0", "up"}},
		{uint32(far.Process.Pid), []string{"addr", "add", neighbour + "/30", "dev", "ffdemo1"}},
		{uint32(far.Process.Pid), []string{"link", "set", "ffdemo1", "up"}},
	} {
		if _, err := inNetwork(ctx, step.pid, "ip", step.args...); err != nil {
			hangUp()
			return nil, err
		}
	}
	return hangUp, nil
}
