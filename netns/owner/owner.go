package owner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
)

// mostDescriptors is how many descriptors of a container are looked at for one connection: 65,536 take some 60 ms.
const mostDescriptors = 65536

// ErrUnknown says that no process could be told to have opened the connection; what wraps it says why.
var ErrUnknown = errors.New("the process is not known")

// Find finds the process that has a connection of a network namespace among some processes, by host's numbers, which should be all of
// the containers in there. Where several have it, as children do that inherited it, they have to run the same program, and the one with
// the lowest number is taken. All is looked at a second time after the program's name was read, so that what is
// answered was true at one moment. The error wraps ErrUnknown, or is ctx's.
func Find(ctx context.Context, ns *enter.Namespace, pids []int, c Connection) (flow.Process, error) {
	socket, err := socketIn(ns, c)
	if err != nil {
		return flow.Process{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	found, err := holders(ctx, pids, socket)
	if err != nil {
		return flow.Process{}, err
	}
	var p flow.Process
	slices.SortFunc(found, func(a, b holder) int { return a.pid - b.pid })
	for _, h := range found {
		program, err := h.program()
		if err != nil {
			continue // it has ended, or closed the connection
		}
		switch {
		case p.Executable == "":
			p = flow.Process{Executable: program, PID: h.pid}
		case p.Executable != program:
			return flow.Process{}, fmt.Errorf("%w: %s and %s have the connection", ErrUnknown, p.Executable, program)
		}
	}
	if p.Executable == "" {
		return p, fmt.Errorf("%w: none of the container's %d processes has the connection", ErrUnknown, len(pids))
	}
	if again, err := socketIn(ns, c); err != nil || again != socket {
		return flow.Process{}, fmt.Errorf("%w: the connection ended meanwhile", ErrUnknown)
	}
	return p, nil
}

// socketIn is the target of links to the connection's socket in /proc/PID/fd.
func socketIn(ns *enter.Namespace, c Connection) (link string, err error) {
	err = ns.Do(func() error {
		n, err := inode(c)
		link = "socket:[" + strconv.FormatUint(uint64(n), 10) + "]"
		return err
	})
	return link, err
}

// holder is a descriptor of a process that leads to the socket.
type holder struct {
	pid    int
	fd     string // its path
	socket string
}

// holders are the first such descriptors of all processes that have one.
func holders(ctx context.Context, pids []int, socket string) (found []holder, err error) {
	left := mostDescriptors
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
		names, err := firstNames(dir, left+1)
		if err != nil {
			continue // it has ended
		}
		if left -= len(names); left < 0 {
			return nil, fmt.Errorf("%w: the container has more than %d descriptors open", ErrUnknown, mostDescriptors)
		}
		slices.Reverse(names) // sockets are mostly younger than the rest
		for _, name := range names {
			if to, err := os.Readlink(dir + name); err == nil && to == socket {
				found = append(found, holder{pid, dir + name, socket})
				break
			}
		}
	}
	return found, nil
}

func firstNames(dir string, most int) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(most) // io.EOF where there are none
}

// program is the path of what the holder runs, in its mount namespace: as long as it held the socket, before and after. A file that was
// deleted since has " (deleted)" at the end, as the kernel has it, so that it matches no rule.
func (h holder) program() (string, error) {
	exe := "/proc/" + strconv.Itoa(h.pid) + "/exe"
	for range 3 { // one that replaces itself by another program just now is looked at again
		before, err := os.Readlink(exe)
		if err != nil {
			return "", err
		}
		held, err := os.Readlink(h.fd)
		if err != nil {
			return "", err
		}
		if held != h.socket {
			break
		}
		if after, err := os.Readlink(exe); err == nil && after == before && strings.HasPrefix(after, "/") {
			return after, nil
		}
	}
	return "", os.ErrNotExist
}
