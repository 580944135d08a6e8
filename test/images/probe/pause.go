package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// pause keeps a pod's namespaces alive: it waits for the end and, as PID 1 of a shared PID namespace, for children
// that others left.
func pause([]string) error {
	c := make(chan os.Signal, 64)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	reap() // one may have ended before we listened
	for s := range c {
		if s != syscall.SIGCHLD {
			return nil
		}
		reap()
	}
	return nil
}

// reap waits for every child that has ended; one signal can stand for several.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}
