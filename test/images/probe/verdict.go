package main

import (
	"encoding/json"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// verdict is what became of one system call.
type verdict struct {
	Name   string `json:"name"`
	Result string `json:"result"` // "ok", the errno's name, or "killed by SIGSYS"
	Errno  int    `json:"errno"`  // 0 when the call succeeded
	Value  int64  `json:"value"`  // what it returned when it succeeded
}

func verdictOf(name string, value uintptr, errno syscall.Errno) verdict {
	if errno != 0 {
		return verdict{Name: name, Result: errnoName(errno), Errno: int(errno)}
	}
	return verdict{Name: name, Result: "ok", Value: int64(value)}
}

// killedBy is added to the signal by which a call killed its caller, where that is no reason to end: no errno is so high.
const killedBy = 1 << 12

func errnoName(errno syscall.Errno) string {
	if errno > killedBy {
		return "killed by " + signalName(syscall.Signal(errno-killedBy))
	}
	if s := unix.ErrnoName(errno); s != "" {
		return s
	}
	return fmt.Sprintf("errno %d", int(errno))
}

// print writes v as one line.
func (v verdict) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(v)
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", v.Name, v.Result)
	return err
}

// jsonFlag takes a leading --json off args.
func jsonFlag(args []string) (bool, []string) {
	if len(args) > 0 && args[0] == "--json" {
		return true, args[1:]
	}
	return false, args
}
