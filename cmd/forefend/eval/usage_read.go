package eval

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usageSeries is the recorded use of one resource by one container.
type usageSeries struct {
	name    string
	ceiling float64 // highest possible value, 0: not known
	samples []usageSample
}

// usageSample is one value, at seconds since 1970 or since the recording began.
type usageSample struct {
	at    int64
	value float64
}

// usageFamily says how a family of recordings is read and judged.
type usageFamily struct {
	name      string
	resources []string
	window    time.Duration
	read      func(dir, resource string) ([]usageSeries, error)
}

var usageFamilies = []usageFamily{
	{"bitbrains", []string{"memory", "cpu"}, 24 * time.Hour, readBitbrains},
	{"pods", []string{"memory"}, time.Hour, readPods},
	{"gcd", []string{"memory", "cpu"}, 4 * time.Hour, readGCD},
	{"planetlab", []string{"cpu"}, time.Hour, readPlanetlab},
}

func usageFamilyNamed(name, resource string) (usageFamily, error) {
	for _, f := range usageFamilies {
		if f.name != name {
			continue
		}
		if !slices.Contains(f.resources, resource) {
			return f, fmt.Errorf("family %s has no %s: use --resource %s", name, resource, strings.Join(f.resources, " or "))
		}
		return f, nil
	}
	return usageFamily{}, fmt.Errorf("no family %q: use --family bitbrains, pods, gcd or planetlab", name)
}

const (
	maxUsageBytes   = 1 << 30 // of one file, unpacked
	maxUsageSamples = 1 << 24 // of all series together
	fiveMinutes     = 300
)

// openText opens a file that may be packed, by its content.
func openText(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b := bufio.NewReaderSize(f, 1<<16)
	var r io.Reader = b
	if magic, _ := b.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		if r, err = gzip.NewReader(b); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, maxUsageBytes), f}, nil
}

// table reads CSV with a header and calls row with a look-up of fields by column name. Rows that are no CSV are left out.
func table(r io.Reader, row func(field func(name string) string)) error {
	c := csv.NewReader(r)
	c.FieldsPerRecord, c.ReuseRecord, c.LazyQuotes = -1, true, true
	header, err := c.Read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	columns := make(map[string]int, len(header))
	for i, name := range header {
		columns[strings.TrimSpace(strings.TrimPrefix(name, "\ufeff"))] = i
	}
	var record []string
	field := func(name string) string {
		if i, ok := columns[name]; ok && i < len(record) {
			return record[i]
		}
		return ""
	}
	for {
		record, err = c.Read()
		var bad *csv.ParseError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &bad):
			continue
		case err != nil:
			return err
		}
		row(field)
	}
}

// number reads a value that is neither negative nor no number. Measurements a little below zero count as zero.
func number(s string) (float64, bool) {
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < -1 {
		return 0, false
	}
	return max(v, 0), true
}

// collector gathers samples by series, in the order in which series appear.
type collector struct {
	series []usageSeries
	place  map[string]int
	count  int
}

func (c *collector) add(name string, ceiling float64, at int64, v float64) {
	if c.place == nil {
		c.place = make(map[string]int)
	}
	i, ok := c.place[name]
	if !ok {
		i = len(c.series)
		c.place[name] = i
		c.series = append(c.series, usageSeries{name: name, ceiling: ceiling})
	}
	if c.count++; c.count <= maxUsageSamples {
		c.series[i].samples = append(c.series[i].samples, usageSample{at, v})
	}
}

// done returns the series, each in the order of time.
func (c *collector) done(what string) ([]usageSeries, error) {
	if len(c.series) == 0 {
		return nil, fmt.Errorf("%s: no samples found: is --data the folder that holds them?", what)
	}
	if c.count > maxUsageSamples {
		return nil, fmt.Errorf("%s: more than %d samples", what, maxUsageSamples)
	}
	for _, s := range c.series {
		slices.SortStableFunc(s.samples, func(a, b usageSample) int { return int(min(max(a.at-b.at, -1), 1)) })
	}
	return c.series, nil
}

// dataFiles lists what matches one of the patterns below dir, sorted, the first pattern with a match alone.
func dataFiles(dir string, patterns ...string) ([]string, error) {
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			slices.Sort(found)
			return found, nil
		}
	}
	return nil, fmt.Errorf("%s: no %s: is --data the folder that holds it? %w", dir, strings.Join(patterns, " or "), os.ErrNotExist)
}
