package main

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/cgroup"
)

// machine is where the figures were taken.
type machine struct {
	Time       time.Time `json:"time"`
	Kernel     string    `json:"kernel"`
	CPU        string    `json:"cpu"`
	CPUs       int       `json:"cpus"`
	Cgroup     string    `json:"cgroup"`
	Containerd string    `json:"containerd"`
	Runc       string    `json:"runc"`
	Load       string    `json:"load"`
}

// thisMachine describes this machine; what it cannot find out is "?".
func thisMachine() machine {
	return machine{
		Time: time.Now(), Kernel: fileText("/proc/sys/kernel/osrelease"), CPUs: runtime.NumCPU(),
		CPU:    match(`(?m)^model name\s*:\s*(.*)$`, fileText("/proc/cpuinfo")),
		Cgroup: string(cgroup.CurrentMode()), Load: load(),
		Containerd: match(` v?(\d+\.\S+)`, said("bin/containerd", "--version")),
		Runc:       match(`version (\S+)`, said("bin/runc", "--version")),
	}
}

// load is the load average of the last minute.
func load() string { return match(`^(\S+)`, fileText("/proc/loadavg")) }

func match(pattern, text string) string {
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		return "?"
	}
	return m[1]
}

func fileText(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(text))
}

func said(name string, args ...string) string {
	text, _ := exec.Command(name, args...).Output() // not there: the measurements will say so
	return string(text)
}
