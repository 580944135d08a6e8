package config

import "path/filepath"

// A unix socket's address holds 107 bytes and a NUL. Names in NotifyDir have
// up to maxSocketName bytes, which bounds the length of State.
const (
	maxSocketPath = 107
	maxSocketName = 32
)

// maxState is the longest State whose sockets still have an address.
const maxState = maxSocketPath - len("/n/") - maxSocketName

// Socket is the unix socket on which the daemon listens.
func (c *Config) Socket() string { return filepath.Join(c.State, "forefend.sock") }

// Lock is the file that the one running daemon holds locked.
func (c *Config) Lock() string { return filepath.Join(c.State, "daemon.lock") }

// Log is the daemon's log file.
func (c *Config) Log() string { return filepath.Join(c.Root, "daemon.log") }

// StoreDir holds the embedded store of history and decisions.
func (c *Config) StoreDir() string { return filepath.Join(c.Root, "store") }

// SealedDir holds the sealed policies that shims use while no daemon answers.
func (c *Config) SealedDir() string { return filepath.Join(c.Root, "sealed") }

// ContainersDir holds the clean-up records of running containers.
func (c *Config) ContainersDir() string { return filepath.Join(c.State, "c") }

// NotifyDir holds the sockets on which runc hands over seccomp listeners. Names
// in it have at most 32 bytes.
func (c *Config) NotifyDir() string { return filepath.Join(c.State, "n") }

// SpoolDir holds the final observations that shims could not deliver.
func (c *Config) SpoolDir() string { return filepath.Join(c.Root, "spool") }

// StartLock is the file that a shim holds locked while it starts the daemon.
func (c *Config) StartLock() string { return filepath.Join(c.State, "start.lock") }

// GatesDir holds the numbers of the BPF programs and maps that all containers of the node share.
func (c *Config) GatesDir() string { return filepath.Join(c.State, "gates") }

// TunnelsSocket is the unix socket on which tunneld listens.
func (c *Config) TunnelsSocket() string { return filepath.Join(c.State, "tunneld.sock") }

// TunnelsLock is the file that the one running tunneld holds locked.
func (c *Config) TunnelsLock() string { return filepath.Join(c.State, "tunneld.lock") }

// TunnelsLog is tunneld's log file.
func (c *Config) TunnelsLog() string { return filepath.Join(c.Root, "tunneld.log") }

// TunnelsDir is where tunneld writes down which network namespaces it guards.
func (c *Config) TunnelsDir() string { return filepath.Join(c.State, "tunnels") }

// DrainsFile is where tunneld writes down which tunnels are drained.
func (c *Config) DrainsFile() string { return filepath.Join(c.Root, "drained-tunnels.json") }

// UplinksFile is where tunneld writes down to which devices it gave a queueing discipline.
func (c *Config) UplinksFile() string { return filepath.Join(c.State, "uplinks.json") }
