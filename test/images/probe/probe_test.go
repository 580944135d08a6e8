package main

import (
	"bytes"
	"encoding/json"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNumber(t *testing.T) {
	for name, want := range map[string]uintptr{"unshare": unix.SYS_UNSHARE, "mount": unix.SYS_MOUNT, "io_uring_setup": unix.SYS_IO_URING_SETUP, "999": 999} {
		if got, err := number(name); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", name, got, err, want)
		}
	}
	if _, err := number("nosuch"); err == nil {
		t.Error("nosuch has a number")
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		v          verdict
		text, json string
	}{
		{verdictOf("bpf", 0, syscall.EPERM), "bpf: EPERM\n", `{"name":"bpf","result":"EPERM","errno":1,"value":0}`},
		{verdictOf("getpid", 42, 0), "getpid: ok\n", `{"name":"getpid","result":"ok","errno":0,"value":42}`},
		{verdictOf("x", 0, 4000), "x: errno 4000\n", `{"name":"x","result":"errno 4000","errno":4000,"value":0}`},
	} {
		var b bytes.Buffer
		if err := test.v.print(&b, false); err != nil || b.String() != test.text {
			t.Errorf("got %q, %v, want %q", b.String(), err, test.text)
		}
		b.Reset()
		if err := test.v.print(&b, true); err != nil || b.String() != test.json+"\n" || !json.Valid(b.Bytes()) {
			t.Errorf("got %q, %v, want %q", b.String(), err, test.json)
		}
	}
}

// TestAttempts guards the names tests refer to, and the harmless ones' verdicts outside any container.
func TestAttempts(t *testing.T) {
	seen := make(map[string]bool)
	for _, a := range attempts {
		if seen[a.name] {
			t.Errorf("two attempts are called %s", a.name)
		}
		seen[a.name] = true
	}
	for _, a := range attempts {
		if a.name == "clock_settime" {
			if v := a.make(); v.Result != "EINVAL" {
				t.Errorf("%s: %+v", a.name, v)
			}
		}
	}
}
