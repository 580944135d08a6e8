package rootfs

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"forefend.dev/forefend/runtime/workload"
)

// Cache remembers the hashes of programs, so that an image's program is read
// once however many containers start from it. A file is known by device, inode,
// size and both times: the layers below a container's own are the same
// files for all containers of an image.
type Cache struct {
	most int

	mu     sync.Mutex                 // guards all below
	known  map[identity]*list.Element // of entry
	recent *list.List                 // most recently used first
	work   map[identity]chan struct{} // closed when whoever hashes it is done
}

type entry struct {
	id      identity
	content content
}

// identity is one state of one file.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func identify(f *os.File) (identity, error) {
	fi, err := f.Stat()
	if err != nil {
		return identity{}, fmt.Errorf("examine the program: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, fmt.Errorf("examine the program: no inode: %w", errors.ErrUnsupported)
	}
	return identity{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, nil
}

// NewCache remembers at most n programs, about 300 bytes each.
func NewCache(n int) *Cache {
	return &Cache{
		most:   max(1, n),
		known:  make(map[identity]*list.Element),
		recent: list.New(),
		work:   make(map[identity]chan struct{}),
	}
}

// Executable is Tree.Executable of the tree of layers, with memory. Callers
// that ask for the same file at the same time wait for the first, each no
// longer than its ctx.
func (c *Cache) Executable(ctx context.Context, layers, args []string, searchPath, cwd string) (workload.Executable, error) {
	f, resolved, err := Open(layers).findProgram(args, searchPath, cwd)
	if err != nil {
		return workload.Executable{}, err
	}
	defer f.Close()
	id, err := identify(f)
	if err != nil {
		return workload.Executable{}, err
	}
	found, err := c.content(ctx, id, f)
	if err != nil {
		return workload.Executable{}, err
	}
	return found.executable(resolved), nil
}

func (c *Cache) content(ctx context.Context, id identity, f *os.File) (content, error) {
	for {
		found, busy, ok := c.claim(id)
		switch {
		case ok:
			return found, nil
		case busy == nil:
			found, err := examine(ctx, f)
			c.finish(id, found, err)
			return found, err
		}
		select {
		case <-busy: // known now, or ours to try
		case <-ctx.Done():
			return content{}, fmt.Errorf("hash the program: %w", context.Cause(ctx))
		}
	}
}

// claim returns what is known, or else the channel of whoever finds out, or
// else makes that the caller, who must call finish.
func (c *Cache) claim(id identity) (found content, busy chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.known[id]; ok {
		c.recent.MoveToFront(e)
		return e.Value.(entry).content, nil, true
	}
	if busy := c.work[id]; busy != nil {
		return content{}, busy, false
	}
	c.work[id] = make(chan struct{})
	return content{}, nil, false
}

func (c *Cache) finish(id identity, found content, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.work[id])
	delete(c.work, id)
	if err != nil {
		return
	}
	c.known[id] = c.recent.PushFront(entry{id, found})
	if c.recent.Len() > c.most {
		oldest := c.recent.Remove(c.recent.Back()).(entry)
		delete(c.known, oldest.id)
	}
}
