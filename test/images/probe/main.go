// Command probe is the one static binary that tests, the demonstration and the benchmark run inside containers: a
// small HTTP server, loads of a known size, and single system calls whose verdict it prints. It needs nothing from
// its image, so it works from scratch images and bind-mounted into any other.
//
// Results go to stdout, one line each ("unshare: EPERM"), or as JSON lines with --json. The exit status is 0 when the
// probe could do its job, whatever the verdicts were; 1 when it could not; 2 for a wrong command line.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

//go:generate ./gen.sh amd64
//go:generate ./gen.sh arm64

// command is one subcommand: what follows its name is args.
type command struct {
	name  string
	usage string
	run   func(args []string) error
}

// commands is filled in by commandList: usage() prints it, which would be an initialization cycle otherwise.
func commandList() []command {
	return []command{
		{"serve", "serve [-addr :8080]                        HTTP: / /alloc?mb= /work?n= /env", serve},
		{"attack", "attack [--json] [--inline] [NAME...]       dangerous calls, all or the named ones", attack},
		{"sys", "sys [--json] NAME|NR [ARG...]              one raw system call", sysCommand},
		{"try", "try [--json] WHAT[=ARG]...                 call=NAME write=PATH read=PATH send=ADDR nofile", try},
		{"steady", "steady DIR                                 harmless calls until SIGTERM, then what became of them", steady},
		{"loop", "loop NAME|NR COUNT                         time COUNT calls", loop},
		{"flips", "flips NAME|NR DURATION                     when the result of a call became another", flips},
		{"grow", "grow MIB [MIB_PER_SECOND [HOLD]]           touch memory, hold it (a duration)", grow},
		{"fork", "fork N [HOLD]                              N children that live for HOLD", fork},
		{"spin", "spin DURATION [THREADS]                    burn CPU", spin},
		{"write", "write PATH [BYTES]                         write a file", write},
		{"cat", "cat PATH...                                print files", cat},
		{"status", "status [--json]                            ids, capabilities, seccomp, no-new-privileges", status},
		{"connect", "connect NETWORK ADDRESS                    open one connection (tcp, udp, unix)", connect},
		{"exec", "exec PATH [ARG...]                         replace this process", execute},
		{"env", "env                                        print the environment", environment},
		{"sleep", "sleep DURATION                             wait, or end by a signal", sleep},
		{"pause", "pause                                      wait for SIGTERM or SIGINT and reap orphans", pause},
		{"signals", "signals                                    print each signal; SIGTERM ends with 0", signals},
		{"euid", "euid                                       print the effective user id", euid},
		{"exit", "exit CODE                                  end with CODE", exit},
	}
}

// errUsage asks for the usage text and exit status 2.
var errUsage = errors.New("wrong arguments")

func main() {
	all := commandList()
	if len(os.Args) > 1 {
		i := slices.IndexFunc(all, func(c command) bool { return c.name == os.Args[1] })
		if i >= 0 {
			end(all[i], all[i].run(os.Args[2:]))
		}
	}
	fmt.Fprintf(os.Stderr, "usage: %s COMMAND\n", filepath.Base(os.Args[0]))
	for _, c := range all {
		fmt.Fprintf(os.Stderr, "  %s\n", c.usage)
	}
	os.Exit(2)
}

func end(c command, err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "usage: probe %s\n", c.usage)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "probe %s: %v\n", c.name, err)
	os.Exit(1)
}
