package eval

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// taskRun is one finished run of the data.
type taskRun struct {
	workload   string // workflow and process: whose earlier runs count as n
	facts      workload.Facts
	start, end time.Time
	hours      float64 // it ran
	peak       float64 // bytes
	asked      float64 // bytes, 0: unknown
	exit       uint32
}

// readRuns reads a file of runs, in the order of their starts.
func readRuns(file string) ([]taskRun, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the runs: %w", err)
	}
	defer f.Close()
	r, err := plain(f)
	if err != nil {
		return nil, fmt.Errorf("read the runs of %s: %w", file, err)
	}
	runs, err := parseRuns(r)
	if err != nil {
		return nil, fmt.Errorf("read the runs of %s: %w", file, err)
	}
	return runs, nil
}

// plain unpacks what is packed.
func plain(f io.Reader) (io.Reader, error) {
	b := bufio.NewReader(f)
	if magic, _ := b.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		return gzip.NewReader(b)
	}
	return b, nil
}

// parseRuns reads CSV with a header. It needs the columns process (or task), peak_rss_bytes, start_ms and
// end_ms (or runtime_ms); others may be missing. Rows without a peak or a time measured nothing and are left out.
func parseRuns(from io.Reader) ([]taskRun, error) {
	r := csv.NewReader(from)
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	row := csvRow{column: make(map[string]int)}
	for i, name := range header {
		row.column[strings.ToLower(strings.TrimSpace(name))] = i
	}
	if _, ok := row.column["peak_rss_bytes"]; !ok {
		return nil, errors.New("there is no column peak_rss_bytes")
	}
	var runs []taskRun
	for {
		row.fields, err = r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if run, ok := row.run(); ok {
			runs = append(runs, run)
		}
	}
	slices.SortStableFunc(runs, func(a, b taskRun) int { return cmp.Or(a.start.Compare(b.start), a.end.Compare(b.end)) })
	return runs, nil
}

type csvRow struct {
	column map[string]int
	fields []string
}

func (r csvRow) text(name string) string {
	if i, ok := r.column[name]; ok && i < len(r.fields) {
		return strings.Clone(strings.TrimSpace(r.fields[i]))
	}
	return ""
}

func (r csvRow) number(name string) float64 {
	v, err := strconv.ParseFloat(r.text(name), 64)
	if err != nil || !(v > 0) || v > 1e18 {
		return 0
	}
	return v
}

func (r csvRow) run() (taskRun, bool) {
	flow, process, container := r.text("wf"), cmp.Or(r.text("process"), r.text("task")), r.text("container")
	t := taskRun{workload: flow + "\x00" + process, peak: r.number("peak_rss_bytes"), asked: r.number("req_mem_bytes"), exit: uint32(r.number("exit"))}
	start, end, lasted := r.number("start_ms"), r.number("end_ms"), r.number("runtime_ms")
	if end == 0 {
		end = start + lasted
	}
	if lasted == 0 {
		lasted = end - start
	}
	if t.peak == 0 || start == 0 || end < start || process == "" {
		return t, false
	}
	t.start, t.end, t.hours = time.UnixMilli(int64(start)), time.UnixMilli(int64(end)), lasted/3.6e6
	t.facts = workload.Facts{
		// A process of a workflow runs one command: its last part names it, what comes before says where in
		// the workflow. The tag stands for the digest, which the data does not have.
		Args:      []string{process[strings.LastIndexByte(process, ':')+1:], process},
		Image:     workload.Image{Name: container, Repository: repository(container), Digest: container},
		Group:     flow,
		Requested: workload.Requested{Memory: int64(t.asked), CPUs: r.number("cpus")},
	}
	return t, true
}

// repository is an image's name without its tag.
func repository(image string) string {
	dir, base := path.Split(image)
	base, _, _ = strings.Cut(base, "@")
	base, _, _ = strings.Cut(base, ":")
	return dir + base
}
