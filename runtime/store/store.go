package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Store is an open store directory.
type Store struct {
	dir        string
	lock       *os.File
	engine     *engine
	streams    map[Stream]jetstream.Stream // fixed after Open
	complaints *complaints

	mu       sync.Mutex
	setAside []string           // guarded by mu
	skipped  map[damagedAt]bool // guarded by mu
	closed   bool               // guarded by mu
}

type damagedAt struct {
	stream Stream
	seq    uint64
}

// Open opens the store in dir, which it makes when absent. It returns ErrInUse
// when someone has it open already. Damage that it finds is set aside and
// reported by SetAside.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(filepath.Join(dir, asideDir), 0o700); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	s := &Store{dir: dir, lock: lock, complaints: &complaints{}, skipped: make(map[damagedAt]bool)}
	if err := s.start(ctx, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// start brings the engine up. Streams it cannot recover are moved out of its
// way and started anew.
func (s *Store) start(ctx context.Context, o Options) (err error) {
	if err := s.loadSetAside(); err != nil {
		return err
	}
	configs := o.streams()
	found := make(map[string]int64, len(configs)) // before the engine, which may cut damaged files short
	for _, c := range configs {
		found[c.Name] = blockBytes(streamDir(s.dir, c.Name))
	}
	if s.engine, err = startEngine(s.dir, o, s.complaints); err != nil {
		return err
	}
	if lost := s.engine.missing(ctx, s.dir, configs); len(lost) > 0 {
		s.engine.stop()
		s.engine = nil
		for _, name := range lost {
			if err := s.moveAside(streamDir(s.dir, name), "the engine cannot read stream "+name+s.complaints.suffix()); err != nil {
				return err
			}
		}
		if s.engine, err = startEngine(s.dir, o, s.complaints); err != nil {
			return err
		}
	}
	streams := make(map[Stream]jetstream.Stream, len(configs))
	for _, c := range configs {
		stream, err := s.engine.openStream(ctx, c)
		if err != nil {
			return err
		}
		streams[Stream(c.Name)] = stream
		if lost := stream.CachedInfo().State.Lost; lost != nil && len(lost.Msgs) > 0 {
			s.report(fmt.Sprintf("stream %s: the engine discarded %d damaged records (%d bytes), first number %d",
				c.Name, len(lost.Msgs), lost.Bytes, lost.Msgs[0]))
		}
		if n := found[c.Name]; n > 0 && stream.CachedInfo().State.LastSeq == 0 {
			s.report(fmt.Sprintf("stream %s: the engine finds no record in %d bytes", c.Name, n))
		}
	}
	s.streams = streams
	return s.checkExtent(ctx, o)
}

// State is the extent of a stream.
type State struct {
	First, Last uint64 // record numbers; Last is also that of the newest deleted one
	Records     uint64
	Bytes       uint64 // on disk
}

// State returns the extent of a stream.
func (s *Store) State(ctx context.Context, stream Stream) (State, error) {
	e, err := s.extentOf(ctx, stream)
	return e.State, err
}

// Close ends the store. Operations under way fail. It may be called again.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	if s.streams != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.noteExtent(ctx, true)
	}
	if s.engine != nil {
		s.engine.stop()
	}
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}

// blockBytes is the size of a stream's message files. A stream that never had a
// record, which alone has no last number, has none.
func blockBytes(dir string) (n int64) {
	blocks, _ := filepath.Glob(filepath.Join(dir, "msgs", "*.blk")) // the pattern is well-formed
	for _, b := range blocks {
		if info, err := os.Stat(b); err == nil {
			n += info.Size()
		}
	}
	return n
}
