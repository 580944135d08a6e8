package store

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// extentFile says how much the streams held when it was written. The engine
// drops what it cannot read at the end of a file without a word: this is how we know.
const extentFile = "extent"

// extent is the content of extentFile.
type extent struct {
	Clean   bool // written by Close: nothing was added or removed since
	Streams map[Stream]streamExtent
}

type streamExtent struct {
	State
	Oldest time.Time
}

// noteExtent writes the extent of all streams. It is a help against damage, no
// data: failing to write it only means that a later loss may go unreported.
func (s *Store) noteExtent(ctx context.Context, clean bool) {
	e := extent{Clean: clean, Streams: make(map[Stream]streamExtent)}
	for name := range s.streams {
		now, err := s.extentOf(ctx, name)
		if err != nil {
			return
		}
		e.Streams[name] = now
	}
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	path := filepath.Join(s.dir, extentFile)
	if b, err = seal(extentFile, b); err == nil && os.WriteFile(path+".new", b, 0o600) == nil {
		_ = os.Rename(path+".new", path)
	}
}

func (s *Store) extentOf(ctx context.Context, name Stream) (streamExtent, error) {
	info, err := s.streams[name].Info(ctx)
	if err != nil {
		return streamExtent{}, fmt.Errorf("state of stream %s: %w", name, err)
	}
	i := info.State
	return streamExtent{State{First: i.FirstSeq, Last: i.LastSeq, Records: i.Msgs, Bytes: i.Bytes}, i.FirstTime}, nil
}

// checkExtent reports what the streams have lost since the extent was noted.
func (s *Store) checkExtent(ctx context.Context, o Options) error {
	var was extent
	if b, err := os.ReadFile(filepath.Join(s.dir, extentFile)); err == nil {
		if b, err = unseal(extentFile, b); err != nil || json.Unmarshal(b, &was) != nil {
			was = extent{}
		}
	}
	for name := range s.streams {
		now, err := s.extentOf(ctx, name)
		if err != nil {
			return err
		}
		then := was.Streams[name]
		if gone := then.missing(now, was.Clean, name, o.MaxAge); gone != "" {
			s.report(fmt.Sprintf("stream %s: %s", name, gone))
		}
	}
	s.noteExtent(ctx, false)
	return nil
}

// missing says what is gone that should be there: not what got too old, made
// room for newer records, or may have been removed before a crash.
func (then streamExtent) missing(now streamExtent, clean bool, name Stream, maxAge time.Duration) string {
	if now.Last < then.Last {
		return fmt.Sprintf("records after number %d are gone, there were %d", now.Last, then.Last)
	}
	aged := name != Checkpoints && name != Rules && time.Since(then.Oldest) > maxAge
	madeRoom := now.Last > then.Last && now.First > then.First
	removed := name == Checkpoints && !clean
	if now.Records < then.Records && !aged && !madeRoom && !removed {
		return fmt.Sprintf("%d of %d records are gone", then.Records-now.Records, then.Records)
	}
	return ""
}
