package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
)

// attack tries dangerous calls, each in a child of its own: a filter may kill the caller, and some calls change it.
// With --inline, or where no child can be started, it makes them itself.
func attack(args []string) error {
	asJSON, args := jsonFlag(args)
	inline := len(args) > 0 && args[0] == "--inline"
	if inline {
		args = args[1:]
	}
	for _, name := range args {
		if !slices.ContainsFunc(attempts, func(a attempt) bool { return a.name == name }) {
			return fmt.Errorf("no attack called %q", name)
		}
	}
	for _, a := range attempts {
		if len(args) > 0 && !slices.Contains(args, a.name) {
			continue
		}
		v := verdict{}
		if inline {
			v = a.make()
		} else {
			v = a.inChild()
		}
		if err := v.print(os.Stdout, asJSON); err != nil {
			return err
		}
	}
	return nil
}

// make makes the call on a thread that is never used again.
func (a attempt) make() verdict {
	runtime.LockOSThread()
	value, errno := a.call()
	return verdictOf(a.name, value, errno)
}

func (a attempt) inChild() verdict {
	cmd := exec.Command("/proc/self/exe", "attack", "--json", "--inline", a.name)
	cmd.Args[0] = os.Args[0]
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return verdict{Name: a.name, Result: "killed by " + signalName(s.Signal()), Errno: -1}
		}
	}
	var v verdict
	line, _ := bufio.NewReader(&out).ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &v) != nil {
		return a.make()
	}
	return v
}
