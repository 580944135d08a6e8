package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func cat(args []string) error {
	for _, path := range args {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// statusFields are the lines of /proc/self/status that policy decides.
var statusFields = []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"}

func status(args []string) error {
	asJSON, _ := jsonFlag(args)
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			values[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	picked := make(map[string]string)
	for _, k := range statusFields {
		picked[k] = values[k]
		if !asJSON {
			fmt.Printf("%s: %s\n", k, values[k])
		}
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(picked)
	}
	return nil
}

func connect(args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	c, err := net.DialTimeout(args[0], args[1], 10*time.Second)
	if err != nil {
		return err
	}
	fmt.Println("connected", c.RemoteAddr())
	return c.Close()
}

func execute(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	return syscall.Exec(args[0], args, os.Environ())
}

func environment([]string) error {
	for _, e := range os.Environ() {
		fmt.Println(e)
	}
	return nil
}

func sleep(args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return errUsage
	}
	time.Sleep(d)
	return nil
}

// signals says "ready", then names each signal it gets. SIGTERM is the last one.
func signals([]string) error {
	c := make(chan os.Signal, 64)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGWINCH)
	fmt.Println("ready")
	for s := range c {
		fmt.Println(signalName(s.(syscall.Signal)))
		if s == syscall.SIGTERM {
			return nil
		}
	}
	return nil
}

func signalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(s))
}

func euid([]string) error {
	fmt.Println("Effective uid:", os.Geteuid())
	return nil
}

func exit(args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return errUsage
	}
	os.Exit(code)
	return nil
}
