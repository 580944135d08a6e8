package nodeload

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// maxInterfaces bounds how many lines of net/dev are looked at: a node has one pair for each pod.
const maxInterfaces = 4096

// errShape is in the chain of every parse error.
var errShape = errors.New("not in the form that proc(5) describes")

// ticks are processor times since boot, in whatever unit the kernel counts.
type ticks struct {
	busy, total uint64
	cores       int
}

// parseStat reads /proc/stat. Guest time is part of user time already and is not counted twice.
func parseStat(text []byte) (t ticks, err error) {
	for line := range bytes.Lines(text) {
		name, rest, _ := bytes.Cut(line, []byte(" "))
		if !bytes.HasPrefix(name, []byte("cpu")) {
			continue
		}
		if len(name) > len("cpu") {
			t.cores++
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) < 5 {
			return ticks{}, fmt.Errorf("stat: %d times: %w", len(fields), errShape)
		}
		for i, f := range fields[:min(len(fields), 8)] { // user nice system idle iowait irq softirq steal
			n, err := strconv.ParseUint(string(f), 10, 60)
			if err != nil {
				return ticks{}, fmt.Errorf("stat: %.20q: %w", f, errShape)
			}
			t.total += n
			if i != 3 && i != 4 { // idle, and idle with a disk busy
				t.busy += n
			}
		}
	}
	if t.total == 0 {
		return ticks{}, fmt.Errorf("stat: no processor times: %w", errShape)
	}
	return t, nil
}

// parseMeminfo reads the total and the available memory in bytes from /proc/meminfo.
func parseMeminfo(text []byte) (total, available int64, err error) {
	total, available = -1, -1
	for line := range bytes.Lines(text) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		var into *int64
		switch {
		case ok && string(name) == "MemTotal":
			into = &total
		case ok && string(name) == "MemAvailable":
			into = &available
		default:
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return 0, 0, fmt.Errorf("meminfo: %s without a value: %w", name, errShape)
		}
		kib, err := strconv.ParseInt(string(fields[0]), 10, 52)
		if err != nil || kib < 0 {
			return 0, 0, fmt.Errorf("meminfo: %s %.20q: %w", name, fields[0], errShape)
		}
		*into = kib << 10
	}
	if total <= 0 || available < 0 {
		return 0, 0, fmt.Errorf("meminfo: no MemTotal or MemAvailable: %w", errShape)
	}
	return total, min(available, total), nil
}

// traffic is what one interface has moved since it came into being, in bytes.
type traffic struct {
	name             string
	received, sentBy uint64
}

// parseNetDev reads /proc/net/dev. Lines that are no interface's are skipped: the first two are titles.
func parseNetDev(text []byte) []traffic {
	var all []traffic
	for line := range bytes.Lines(text) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		fields := bytes.Fields(rest)
		if !ok || len(fields) < 9 {
			continue
		}
		received, err1 := strconv.ParseUint(string(fields[0]), 10, 64)
		sent, err2 := strconv.ParseUint(string(fields[8]), 10, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		if len(all) == maxInterfaces {
			break
		}
		all = append(all, traffic{strings.TrimSpace(string(name)), received, sent})
	}
	return all
}

// unknownShare is a share of time that the kernel does not tell.
const unknownShare = -1

// parsePressure reads the share of the last ten seconds in which some task waited, from a file of /proc/pressure.
func parsePressure(text []byte) float64 {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "some" {
			continue
		}
		value, ok := bytes.CutPrefix(fields[1], []byte("avg10="))
		percent, err := strconv.ParseFloat(string(value), 64)
		if !ok || err != nil || !(percent >= 0) || math.IsInf(percent, 0) {
			return unknownShare
		}
		return min(percent/100, 1)
	}
	return unknownShare
}

// parseSpeed reads a link's speed in bytes a second from sysfs; 0: unknown.
func parseSpeed(text []byte) float64 {
	mbit, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 32)
	if err != nil || mbit <= 0 {
		return 0
	}
	return float64(mbit) * 1e6 / 8
}
