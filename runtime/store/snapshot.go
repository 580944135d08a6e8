package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A snapshot file is: "FFSNAP" version(2 bytes) seq(8) length(8) body crc32c(4),
// numbers little endian but the checksum, which covers body and header.
const (
	snapshotMagic   = "FFSNAP"
	snapshotVersion = 1
	snapshotHeader  = len(snapshotMagic) + 2 + 8 + 8
)

// previous is the suffix of the generation before.
const previous = ".previous"

func (s *Store) snapshotPath(name string) string {
	return filepath.Join(s.dir, token(name)+".snapshot")
}

// WriteSnapshot replaces the snapshot of this name by what w writes; seq is
// kept with it: the number of the last record that is part of it. A crash leaves
// the old snapshot or the new one; the one before is kept in case the new one gets damaged.
func (s *Store) WriteSnapshot(name string, seq uint64, w io.WriterTo) (err error) {
	path := s.snapshotPath(name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write snapshot %s: %w", name, err)
	}
	err = writeSnapshot(f, seq, w)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path, path+previous)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("write snapshot %s: %w", name, err)
	}
	s.noteExtent(context.Background(), false)
	return nil
}

// writeSnapshot writes the body first: its length is known only afterwards.
func writeSnapshot(f *os.File, seq uint64, w io.WriterTo) error {
	if _, err := f.Seek(int64(snapshotHeader), io.SeekStart); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	buf := bufio.NewWriterSize(io.MultiWriter(f, sum), 64<<10)
	n, err := w.WriteTo(buf)
	if err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	header := make([]byte, 0, snapshotHeader)
	header = append(header, snapshotMagic...)
	header = binary.LittleEndian.AppendUint16(header, snapshotVersion)
	header = binary.LittleEndian.AppendUint64(header, seq)
	header = binary.LittleEndian.AppendUint64(header, uint64(n))
	sum.Write(header)
	if _, err := f.Write(sum.Sum(nil)); err != nil {
		return err
	}
	_, err = f.WriteAt(header, 0)
	return err
}

// ReadSnapshot checks the snapshot of this name as a whole, then gives its body to
// read and returns the number kept with it. A snapshot that is damaged, or
// that read refuses, is set aside and the one before it is tried, so read may be
// called twice. found is false, without error, when none is usable: SetAside says
// whether there was one. The error is about files that cannot be read or moved.
func (s *Store) ReadSnapshot(name string, read func(io.Reader) error) (seq uint64, found bool, err error) {
	for _, path := range []string{s.snapshotPath(name), s.snapshotPath(name) + previous} {
		seq, found, err = s.readSnapshot(path, read)
		if errors.Is(err, ErrDamaged) {
			err = s.moveAside(path, err.Error())
		}
		if found || err != nil {
			break
		}
	}
	if err != nil {
		return 0, false, fmt.Errorf("read snapshot %s: %w", name, err)
	}
	return seq, found, nil
}

func (s *Store) readSnapshot(path string, read func(io.Reader) error) (seq uint64, found bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	seq, body, err := checkSnapshot(f)
	if err != nil {
		return 0, false, err
	}
	if err := read(bufio.NewReaderSize(body, 64<<10)); err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return seq, true, nil
}

// PeekSnapshot gives the newest sound snapshot of this name below dir to read, without opening the store: for
// commands beside a daemon that has it open. Nothing is locked, moved or written.
func PeekSnapshot(dir, name string, read func(io.Reader) error) (found bool, err error) {
	s := &Store{dir: dir}
	var damaged error
	for _, path := range []string{s.snapshotPath(name), s.snapshotPath(name) + previous} {
		_, found, err := s.readSnapshot(path, read)
		if found {
			return true, nil
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			return false, fmt.Errorf("read snapshot %s: %w", name, err)
		}
		damaged = errors.Join(damaged, err)
	}
	if damaged != nil {
		return false, fmt.Errorf("read snapshot %s: %w", name, damaged)
	}
	return false, nil
}

// checkSnapshot verifies the file and returns a reader of its body.
func checkSnapshot(f io.ReaderAt) (seq uint64, body *io.SectionReader, err error) {
	header := make([]byte, snapshotHeader)
	if _, err := f.ReadAt(header, 0); err != nil {
		return 0, nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	fields := header[len(snapshotMagic):]
	version, length := binary.LittleEndian.Uint16(fields), binary.LittleEndian.Uint64(fields[10:])
	if string(header[:len(snapshotMagic)]) != snapshotMagic || version != snapshotVersion || length > 1<<40 {
		return 0, nil, fmt.Errorf("%w: version %d of %q is unknown here", ErrDamaged, version, header[:len(snapshotMagic)])
	}
	body = io.NewSectionReader(f, int64(snapshotHeader), int64(length))
	var sum hash.Hash32 = crc32.New(castagnoli)
	if n, err := io.Copy(sum, body); err != nil || n != int64(length) {
		return 0, nil, fmt.Errorf("%w: %d bytes of %d (%v)", ErrDamaged, n, length, err)
	}
	sum.Write(header)
	var want [4]byte
	if _, err := f.ReadAt(want[:], int64(snapshotHeader)+int64(length)); err != nil {
		return 0, nil, fmt.Errorf("%w: checksum: %w", ErrDamaged, err)
	}
	if sum.Sum32() != binary.BigEndian.Uint32(want[:]) {
		return 0, nil, fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return 0, nil, err
	}
	return binary.LittleEndian.Uint64(fields[2:]), body, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
