package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/whole"
)

// journal is the file of leases: a line for each that was given and for each that ended, with a checksum. It is fsynced before
// anybody is told, for all who wait at once, and written anew when most of it is past.
type journal struct {
	path string
	// snapshot are all leases there are, with the batch that is open; it is called with writing held.
	snapshot func() ([]entry, *batch)

	writing sync.Mutex // held while the file changes
	file    *os.File   // guarded by writing; nil: to be written anew
	lines   int        // guarded by writing
	most    int        // lines, before it is written anew; guarded by writing

	mu   sync.Mutex
	open *batch // guarded by mu
}

// batch are lines that become durable together.
type batch struct {
	lines   bytes.Buffer // guarded by the journal's mu
	entries int
	done    bool // guarded by writing
	err     error
}

// journalVersion is raised when a field of an entry changes its meaning.
const journalVersion = 1

// entry is one line.
type entry struct {
	Version int    `json:"v"`
	Lease   *lease `json:"lease,omitempty"` // given, or changed
	Gone    string `json:"gone,omitempty"`  // the id of one that ended
}

// slack is how many lines of the past a journal may have beyond those of the leases that there are.
const slack = 1024

// maxLine bounds one line.
const maxLine = 4096

const journalName = "leases"

// openJournal opens that of a directory, which must be another one's no more, and reads it. What is damaged is kept beside it, and told.
func openJournal(dir string) (j *journal, leases map[string]*lease, damage error, err error) {
	j = &journal{path: filepath.Join(dir, journalName), open: &batch{}}
	body, err := os.Open(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, make(map[string]*lease), nil, nil
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("leases: %w", err)
	}
	defer body.Close()
	leases, bad, err := readJournal(body)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("leases in %s: %w", j.path, err)
	}
	if bad > 0 {
		aside := j.path + "-damaged-" + strconv.FormatInt(time.Now().Unix(), 10)
		damage = fmt.Errorf("%d lines of %s are damaged, which is kept as %s", bad, j.path, aside)
		_ = os.Remove(aside)
		if err := os.Link(j.path, aside); err != nil {
			damage = errors.Join(damage, err)
		}
	}
	return j, leases, damage, nil
}

// readJournal reads all lines; bad is how many are damaged. A last one without an end was never told anybody, and is none.
func readJournal(r io.Reader) (leases map[string]*lease, bad int, err error) {
	leases = make(map[string]*lease)
	lines := bufio.NewReaderSize(r, maxLine)
	for long := false; ; {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = true
			continue
		case errors.Is(err, io.EOF):
			return leases, bad, nil
		case err != nil:
			return nil, bad, err
		}
		e, ok := parseLine(line)
		if !ok || long {
			bad++
			long = false
			continue
		}
		if e.Lease != nil {
			leases[e.Lease.ID] = e.Lease
		} else {
			delete(leases, e.Gone)
		}
	}
}

func parseLine(line []byte) (e entry, ok bool) {
	sum, body, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if !found || err != nil || crc32.ChecksumIEEE(body) != uint32(want) || json.Unmarshal(body, &e) != nil {
		return e, false
	}
	return e, e.Version == journalVersion && (e.Lease != nil) != (e.Gone != "") && (e.Lease == nil || e.Lease.check() == nil)
}

func (e entry) write(to *bytes.Buffer) {
	e.Version = journalVersion
	body, _ := json.Marshal(e) // it is made of texts and numbers
	fmt.Fprintf(to, "%08x %s\n", crc32.ChecksumIEEE(body), body)
}

// add has an entry be written with the batch that it returns. Entries stand in the order of the calls.
func (j *journal) add(e entry) *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.write(&j.open.lines)
	j.open.entries++
	return j.open
}

// take closes the open batch and begins another.
func (j *journal) take() *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := j.open
	j.open = &batch{}
	return b
}

// wait returns once a batch is durable, or is not going to be.
func (j *journal) wait(b *batch) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if !b.done {
		j.flush()
	}
	return b.err
}

// flush makes what is open durable. writing is held.
func (j *journal) flush() {
	var b *batch
	if j.file == nil || j.lines > j.most {
		var all []entry
		all, b = j.snapshot()
		b.err = j.rewrite(all)
	} else {
		b = j.take()
		b.err = j.append(b)
	}
	b.done = true
	if b.err != nil {
		b.err = fmt.Errorf("write leases down: %w", b.err)
		_ = j.shut() // what is in the file is not known: the next time it is written anew
	}
}

func (j *journal) append(b *batch) error {
	if _, err := j.file.Write(b.lines.Bytes()); err != nil {
		return err
	}
	j.lines += b.entries
	return unix.Fdatasync(int(j.file.Fd()))
}

// rewrite replaces the file.
func (j *journal) rewrite(all []entry) error {
	var body bytes.Buffer
	for _, e := range all {
		e.write(&body)
	}
	f, err := whole.KeepOpen(j.path, body.Bytes())
	if err != nil {
		return err
	}
	_ = j.shut()
	j.file, j.lines, j.most = f, len(all), slack+2*len(all)
	return nil
}

// shut closes the file. writing is held.
func (j *journal) shut() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// close makes durable what is open.
func (j *journal) close() error {
	err := j.wait(j.last())
	j.writing.Lock()
	defer j.writing.Unlock()
	return errors.Join(err, j.shut())
}

func (j *journal) last() *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.open
}
