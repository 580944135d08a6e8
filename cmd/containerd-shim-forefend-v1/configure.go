package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/shim"
)

// configure reads the node's configuration into what the shim needs of it.
func configure() shim.Config {
	c, err := config.FromEnv()
	if err != nil { // what has to be removed is removed all the same
		return shim.Config{Fault: err, RuncOptions: config.RuntimeOptions}
	}
	return shim.Config{
		Path:          c.Path,
		State:         c.State,
		Socket:        c.Socket(),
		Containers:    record.Dir(c.ContainersDir()),
		Sealed:        record.SealedDir(c.SealedDir()),
		NotifyDir:     c.NotifyDir(),
		SpoolDir:      c.SpoolDir(),
		StartLock:     c.StartLock(),
		DaemonLog:     c.Log(),
		Daemon:        daemonBinary(),
		OnUnavailable: c.OnUnavailable,
		Privileged:    c.Privileged,
		Site:          c.Site,
		RuncOptions:   config.RuntimeOptions,
		Agents:        agents(c.State),
		AgentDelay:    c.Agent.Delay,
		Egress:        newEgress(c),
		DecideWithin:  c.Egress.DecideWithin,
		Verify:        c.Egress.Verify,
		Airbag:        c.Airbag.Enabled,
		Reserve:       c.Airbag.Reserve,
		AdmitDeadline: c.Deadlines.Admit,
		ColdStart:     c.Deadlines.ColdStart,
		Sample:        c.Sample,
		Checkpoint:    c.Checkpoint,
		Quiet:         c.Phases.Quiet,
		Gates:         &gates{dir: c.GatesDir()},
	}
}

// daemonBinary is the forefend beside this shim, else the one in PATH: an
// upgrade that replaces both replaces them together.
func daemonBinary() string { return beside("forefend") }

// beside finds a program of ours: beside this one, else in PATH.
func beside(name string) string {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if found, err := exec.LookPath(name); err == nil {
		return found
	}
	return name
}
