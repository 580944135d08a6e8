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
func configure() (shim.Config, error) {
	c, err := config.FromEnv()
	if err != nil {
		return shim.Config{}, err
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
		AdmitDeadline: c.Deadlines.Admit,
		ColdStart:     c.Deadlines.ColdStart,
		Sample:        c.Sample,
		Checkpoint:    c.Checkpoint,
		Gates:         &gates{dir: c.GatesDir()},
	}, nil
}

// daemonBinary is the forefend beside this shim, else the one in PATH: an
// upgrade that replaces both replaces them together.
func daemonBinary() string {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "forefend")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	if found, err := exec.LookPath("forefend"); err == nil {
		return found
	}
	return "forefend"
}
