package eval

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"forefend.dev/forefend/predictor/anomaly"
)

// capture is one recording of a container.
type capture struct {
	name   string
	rows   []anomaly.Row
	labels []bool
}

// maxCaptureRows bounds one capture: more than four days.
const maxCaptureRows = 4_000_000

// ErrRows is in the chain of the error for a file of rows that cannot be understood.
var ErrRows = errors.New("not rows of system calls")

func readCaptures(file string) ([]capture, error) {
	in, err := openData(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	captures, err := parseCaptures(in)
	if err != nil {
		return nil, fmt.Errorf("rows in %s: %w", file, err)
	}
	return captures, nil
}

// parseCaptures reads lines of CAPTURE TAB ROW TAB LABEL TAB NAME:COUNT…, in any order of captures. Rows that are missing were empty.
func parseCaptures(in io.Reader) ([]capture, error) {
	var captures []capture
	place := make(map[string]int)
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 1<<16), maxDataLine)
	rows := 0
	for n := 1; lines.Scan(); n++ {
		fields := strings.SplitN(lines.Text(), "\t", 4)
		if len(fields) < 3 {
			continue
		}
		number, err := strconv.Atoi(fields[1])
		if err != nil {
			continue // a heading
		}
		i, known := place[fields[0]]
		if !known {
			i = len(captures)
			place[fields[0]], captures = i, append(captures, capture{name: fields[0]})
		}
		c := &captures[i]
		if number < 0 || rows+number-len(c.rows) > maxCaptureRows {
			return nil, fmt.Errorf("line %d: row %d: %w", n, number, ErrRows)
		}
		for len(c.rows) <= number {
			rows++
			c.rows, c.labels = append(c.rows, nil), append(c.labels, false)
		}
		row := make(anomaly.Row)
		if len(fields) == 4 {
			if row, err = parseCounts(fields[3]); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
		}
		c.rows[number], c.labels[number] = row, fields[2] == "1"
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(captures, func(a, b capture) int {
		return cmp.Or(cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return captures, nil
}

func parseCounts(text string) (anomaly.Row, error) {
	row := make(anomaly.Row)
	for _, word := range strings.Fields(text) {
		colon := strings.LastIndexByte(word, ':')
		if colon < 1 {
			return nil, fmt.Errorf("%.40q is no NAME:COUNT: %w", word, ErrRows)
		}
		count, err := strconv.ParseUint(word[colon+1:], 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%.40q is no NAME:COUNT: %w", word, ErrRows)
		}
		row[word[:colon]] += int(count)
	}
	return row, nil
}

// split parts the captures to learn from those to follow.
func split(captures []capture) (train, test []capture) {
	for _, c := range captures {
		if strings.HasPrefix(c.name, "train") {
			train = append(train, c)
		} else {
			test = append(test, c)
		}
	}
	return train, test
}
