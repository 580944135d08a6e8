package doctor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/record"
)

// Site is where Forefend's data of one configuration is.
type Site struct {
	Root, State string
	Store       string // what is damaged is set aside below it
	Spool       string
	Containers  record.Dir
	Daemon      bool // one runs
}

// The least free space, in bytes, and the share of the whole below which a disk is called full.
const (
	leastRoot  = 64 << 20
	leastState = 4 << 20
	leastShare = 100 // one in
)

// overdue is how old something may be that the daemon takes care of within seconds.
const overdue = 2 * time.Minute

// maxSeen bounds how many files of a directory are looked at.
const maxSeen = 10000

// Rows looks at a site's directories. A directory that is not there yet is in order.
func (s Site) Rows(now time.Time) []Row {
	rows := []Row{
		disk("disk of root", s.Root, leastRoot, Degraded, "history, decisions and events cannot be kept"),
		disk("disk of state", s.State, leastState, Missing, "records of containers cannot be written: none can be created"),
	}
	rows = append(rows, s.aside()...)
	rows = append(rows, s.spool(now)...)
	return append(rows, s.records(now)...)
}

// disk looks at the free space where dir is, or will be.
func disk(feature, dir string, least uint64, state State, cost string) Row {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return Row{Feature: feature, State: state, Found: fmt.Sprintf("%s: %v", dir, err), Cost: cost, Fix: "make it readable for root"}
		}
		return space(feature, dir, st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize), st.Files, st.Ffree, least, state, cost)
	}
}

func space(feature, dir string, free, whole, files, freeFiles, least uint64, state State, cost string) Row {
	found := fmt.Sprintf("%d MiB of %d MiB free at %s", free>>20, whole>>20, dir)
	switch {
	case free < least || free < min(whole/leastShare, 16*least):
		return Row{Feature: feature, State: state, Found: found, Cost: cost, Fix: "make room there, or move it in config.toml"}
	case files > 0 && freeFiles < 1000:
		return Row{Feature: feature, State: state, Found: fmt.Sprintf("%d of %d inodes free at %s", freeFiles, files, dir), Cost: cost,
			Fix: "remove small files there, or move it in config.toml"}
	}
	return ok(feature, found)
}

// aside counts what was damaged and set aside. A running daemon names each itself.
func (s Site) aside() []Row {
	dir := filepath.Join(s.Store, "set-aside")
	n := count(dir, func(name string) bool { return !strings.HasSuffix(name, ".why") })
	damaged := count(s.Spool, func(name string) bool { return strings.HasSuffix(name, ".damaged") })
	var rows []Row
	if n > 0 && !s.Daemon {
		rows = append(rows, degraded("store", fmt.Sprintf("%d damaged records or files in %s", n, dir), "what they held is not part of the history",
			"look for a failing disk; each has its reason beside it. Empty the directory to be told no more"))
	}
	if damaged > 0 {
		rows = append(rows, degraded("spool", fmt.Sprintf("%d unreadable observations (.damaged) in %s", damaged, s.Spool), "those runs are not part of the history",
			"look for a failing disk or a newer shim's format, then remove them"))
	}
	return rows
}

// spool looks for observations that wait too long.
func (s Site) spool(now time.Time) []Row {
	oldest := now
	n := count(s.Spool, func(name string) bool {
		if !strings.HasSuffix(name, ".json") || strings.HasPrefix(name, ".") {
			return false
		}
		if info, err := os.Lstat(filepath.Join(s.Spool, name)); err == nil && info.ModTime().Before(oldest) {
			oldest = info.ModTime()
		}
		return true
	})
	switch {
	case n == 0:
		return nil
	case !s.Daemon:
		return []Row{degraded("spool", fmt.Sprintf("%d observations wait for a daemon", n), "the next decisions do not know those runs yet",
			"start a container, or: forefend daemon --detach")}
	case now.Sub(oldest) > overdue:
		return []Row{degraded("spool", fmt.Sprintf("%d observations wait, the oldest for %s", n, now.Sub(oldest).Round(time.Second)),
			"the next decisions do not know those runs yet", "see the daemon's log for why it does not take them: a full disk, most likely")}
	}
	return nil
}

// records looks at the records of running containers.
func (s Site) records(now time.Time) []Row {
	var alive, stale, damaged, older int
	installed := shimFile()
	for r, err := range s.Containers.List {
		switch {
		case errors.Is(err, fs.ErrNotExist): // just being made, or just removed
		case err != nil:
			damaged++
		case r.Alive():
			alive++
			if its, err := os.Stat(fmt.Sprintf("/proc/%d/exe", r.ShimPID)); err == nil && installed != nil && !os.SameFile(its, installed) {
				older++
			}
		case now.Sub(r.Created) > overdue:
			stale++
		}
		if alive+stale+damaged >= maxSeen {
			break
		}
	}
	var rows []Row
	if damaged > 0 {
		rows = append(rows, degraded("records", plural(damaged, "unreadable record")+" in "+string(s.Containers), "after a crash of their shims, clean-up needs the reboot",
			"stop those containers; then remove the directories"))
	}
	if stale > 0 {
		fix := "see the daemon's log for why it does not remove them"
		if !s.Daemon {
			fix = "a daemon removes them within a minute: forefend daemon --detach"
		}
		rows = append(rows, degraded("records", plural(stale, "record")+" of containers whose shim is dead", "cgroups and sockets may be left over", fix))
	}
	if older > 0 {
		rows = append(rows, degraded("running shims", fmt.Sprintf("%d of %d are not of the installed build", older, alive),
			"their containers keep the features of the build that started them", "nothing has to be done; restart those containers when it suits"))
	}
	if alive > 0 && !s.Daemon {
		rows = append(rows, degraded("daemon", "not running, and "+plural(alive, "container")+" would report to it",
			"usage and events of the containers are kept by their shims, up to a bound, and ps shows nothing", "start a container, or: forefend daemon --detach"))
	}
	return rows
}

// shimFile is the installed shim, nil when it is not in PATH.
func shimFile() os.FileInfo {
	path, err := exec.LookPath(shimName)
	if err != nil {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

// count counts the names in a directory that are wanted, up to maxSeen.
func count(dir string, wanted func(name string) bool) (n int) {
	f, err := os.Open(dir)
	if err != nil {
		return 0 // not there yet
	}
	defer f.Close()
	names, err := f.Readdirnames(maxSeen)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	for _, name := range names {
		if wanted(name) {
			n++
		}
	}
	return n
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
