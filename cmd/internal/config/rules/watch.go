package rules

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is for how long nothing must have happened to files before they are read: who replaces several does so at once. settled is how
// long that is waited for at most.
const (
	quiet   = 5 * time.Millisecond
	settled = 50 * time.Millisecond
)

// watch is told by the kernel that something happened in a directory. It may fail at any time (no such directory yet, inotify's
// limits): then nothing comes of it, until renew succeeds.
type watch struct {
	dir      string
	identity os.FileInfo // of the directory that is watched
	watcher  *fsnotify.Watcher
}

// newWatch watches a directory, or the one of a file.
func newWatch(path string) *watch {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		path = filepath.Dir(path)
	}
	w := &watch{dir: path}
	w.renew()
	return w
}

// renew watches again where that failed, or the directory is another one than before.
func (w *watch) renew() {
	info, err := os.Stat(w.dir)
	if err != nil {
		w.close()
		return
	}
	if w.watcher != nil && os.SameFile(info, w.identity) {
		return
	}
	w.close()
	made, err := fsnotify.NewWatcher()
	if err != nil {
		return
	}
	if made.Add(w.dir) != nil {
		_ = made.Close()
		return
	}
	w.watcher, w.identity = made, info
}

// changes has something to receive once something happened; nil: nobody tells.
func (w *watch) changes() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

// settle waits until what happens is over, and tells whether anything did: the watch may have ended instead.
func (w *watch) settle(ctx context.Context) bool {
	late, calm := time.NewTimer(settled), time.NewTimer(quiet)
	defer late.Stop()
	defer calm.Stop()
	for {
		select {
		case _, ok := <-w.watcher.Events:
			if !ok {
				w.close()
				return false
			}
			calm.Reset(quiet)
		case <-w.watcher.Errors: // events were lost, and one is enough
		case <-calm.C:
			return true
		case <-late.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close()
		w.watcher, w.identity = nil, nil
	}
}
