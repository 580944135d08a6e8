package advisory

import (
	"archive/zip"
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of what is indexed.
const (
	maxRecord  = 16 << 20 // bytes of one record's JSON
	maxEntries = 8 << 20  // packages of all records
	maxFiles   = 4 << 20  // records
	maxDepth   = 3        // directories below the given one
)

// The index is magic, number of entries, place of the table, then each entry's JSON, then the table: of each entry hash,
// place, length, sorted by hash. All numbers are little endian.
const (
	magic      = "ffosv\x00\x00\x02"
	headerSize = 24
	rowSize    = 20
)

type row struct {
	hash uint64
	at   uint64
	size uint32
}

// Stats says what Build found.
type Stats struct {
	Records int // read
	Entries int // affected packages indexed
	Damaged int // records that could not be read
}

// hash places a package in the table.
func hash(ecosystem, name string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, ecosystem)
	_, _ = h.Write([]byte{0})
	_, _ = io.WriteString(h, name)
	return h.Sum64()
}

// source is one file of records.
type source struct {
	path string
	info fs.FileInfo
}

// sources lists the zip and JSON files of an OSV directory, or the one file.
func sources(path string) ([]source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []source{{path, info}}, nil
	}
	var all []source
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(path, p)
		if d.IsDir() && strings.Count(rel, string(filepath.Separator)) >= maxDepth {
			return fs.SkipDir
		}
		if ext := filepath.Ext(p); d.Type().IsRegular() && (ext == ".zip" || ext == ".json") {
			i, err := d.Info()
			if err != nil {
				return err
			}
			all = append(all, source{p, i})
		}
		if len(all) > maxFiles {
			return fmt.Errorf("more than %d files in %s", maxFiles, path)
		}
		return nil
	})
	return all, err
}

// Fingerprint changes when the records below path do, as far as names, sizes and times of files tell.
func Fingerprint(path string) (string, error) {
	all, err := sources(path)
	if err != nil {
		return "", fmt.Errorf("OSV records: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", magic)
	for _, s := range all {
		fmt.Fprintf(h, "%q %d %d\n", s.path, s.info.Size(), s.info.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// Build indexes the OSV records at path, a directory or a file, into w. A cancelled ctx ends it.
func Build(ctx context.Context, path string, w io.WriteSeeker) (Stats, error) {
	all, err := sources(path)
	if err != nil {
		return Stats{}, fmt.Errorf("OSV records: %w", err)
	}
	if len(all) == 0 {
		return Stats{}, fmt.Errorf("OSV records: no .zip or .json file in %s", path)
	}
	b := builder{out: bufio.NewWriterSize(w, 1<<20), at: headerSize}
	if _, err := b.out.Write(make([]byte, headerSize)); err != nil {
		return b.Stats, fmt.Errorf("write OSV index: %w", err)
	}
	for _, s := range all {
		if err := b.add(ctx, s); err != nil {
			return b.Stats, fmt.Errorf("index %s: %w", s.path, err)
		}
	}
	if err := b.finish(w); err != nil {
		return b.Stats, fmt.Errorf("write OSV index: %w", err)
	}
	return b.Stats, nil
}

type builder struct {
	Stats
	out  *bufio.Writer
	at   uint64
	rows []row
}

func (b *builder) add(ctx context.Context, s source) error {
	if filepath.Ext(s.path) != ".zip" {
		f, err := os.Open(s.path)
		if err != nil {
			return err
		}
		defer f.Close()
		return b.record(f)
	}
	z, err := zip.OpenReader(s.path)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !strings.HasSuffix(f.Name, ".json") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			b.Damaged++
			continue
		}
		err = b.record(r)
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// record indexes one. What cannot be read is counted; an error is one of writing.
func (b *builder) record(r io.Reader) error {
	if b.Records+b.Damaged >= maxFiles || len(b.rows) >= maxEntries {
		return errors.New("too many records")
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxRecord+1))
	var rec record
	if err != nil || len(raw) > maxRecord || json.Unmarshal(raw, &rec) != nil {
		b.Damaged++
		return nil
	}
	b.Records++
	for _, e := range rec.entries() {
		if err := b.write(e); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) write(e entry) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := b.out.Write(raw); err != nil {
		return err
	}
	b.rows = append(b.rows, row{hash(e.Ecosystem, e.Name), b.at, uint32(len(raw))})
	b.at += uint64(len(raw))
	b.Entries++
	return nil
}

func (b *builder) finish(w io.WriteSeeker) error {
	slices.SortFunc(b.rows, func(x, y row) int { return cmp.Or(cmp.Compare(x.hash, y.hash), cmp.Compare(x.at, y.at)) })
	var buf [rowSize]byte
	for _, r := range b.rows {
		binary.LittleEndian.PutUint64(buf[0:], r.hash)
		binary.LittleEndian.PutUint64(buf[8:], r.at)
		binary.LittleEndian.PutUint32(buf[16:], r.size)
		if _, err := b.out.Write(buf[:]); err != nil {
			return err
		}
	}
	if err := b.out.Flush(); err != nil {
		return err
	}
	if _, err := w.Seek(0, io.SeekStart); err != nil {
		return err
	}
	head := make([]byte, headerSize)
	copy(head, magic)
	binary.LittleEndian.PutUint64(head[8:], uint64(len(b.rows)))
	binary.LittleEndian.PutUint64(head[16:], b.at)
	_, err := w.Write(head)
	return err
}
