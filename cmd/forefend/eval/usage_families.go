package eval

import (
	"bufio"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// readBitbrains reads one file a VM: step (of 300 s), cpu_mhz, mem_kib. The index, where there is one, has the VMs'
// capacities, which a node knows of what it runs, and when the recording began.
func readBitbrains(dir, resource string) ([]usageSeries, error) {
	files, err := dataFiles(dir, "usage_bitbrains/*.csv*", "vm_*.csv*", "*/vm_*.csv*")
	if err != nil {
		return nil, err
	}
	column, capacity := "mem_kib", "mem_capacity_kib"
	if resource == "cpu" {
		column, capacity = "cpu_mhz", "cpu_capacity_mhz"
	}
	index := readIndex(dir, filepath.Dir(files[0]), capacity)
	var c collector
	for _, path := range files {
		name := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".gz"), ".csv")
		if strings.Contains(name, "index") {
			continue
		}
		f, err := openText(path)
		if err != nil {
			return nil, err
		}
		vm := index[name]
		err = table(f, func(field func(string) string) {
			step, err := strconv.ParseInt(field("step"), 10, 32)
			v, ok := number(field(column))
			if err == nil && ok && step >= 0 {
				c.add(name, vm.ceiling, vm.start+step*fiveMinutes, v)
			}
		})
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return c.done("bitbrains")
}

type indexed struct {
	ceiling float64
	start   int64
}

// readIndex reads usage_bitbrains_index.csv. Without it nothing is known of the VMs, which is no error.
func readIndex(dir, beside, capacity string) map[string]indexed {
	index := make(map[string]indexed)
	files, err := dataFiles(dir, "usage_bitbrains_index.csv*", "*index*.csv*", "*/*index*.csv*")
	if err != nil {
		if files, err = dataFiles(beside, "*index*.csv*", "../*index*.csv*"); err != nil {
			return index
		}
	}
	f, err := openText(files[0])
	if err != nil {
		return index
	}
	defer f.Close()
	_ = table(f, func(field func(string) string) {
		ceiling, _ := number(field(capacity))
		start, _ := number(field("start_unix"))
		index[field("series")] = indexed{ceiling, int64(min(start, 1<<40))}
	})
	return index
}

// readPods reads pod, t (unix seconds), mem_frac: memory as a share of the pod's limit, which is thus 1.
func readPods(dir, _ string) ([]usageSeries, error) {
	var c collector
	err := readRows(dir, []string{"usage_alibaba_genai_pods.csv*", "*pods*.csv*"}, func(field func(string) string) {
		at, err := strconv.ParseFloat(field("t"), 64)
		v, ok := number(field("mem_frac"))
		if err == nil && ok && at >= 0 && at < 1<<40 {
			c.add(field("pod"), 1, int64(at), v)
		}
	})
	if err != nil {
		return nil, err
	}
	return c.done("pods")
}

// readGCD reads series, step (of 300 s), cpu_pct, mem_pct: jobs' sums, so that 100 is no ceiling. All series have one
// clock, the step.
func readGCD(dir, resource string) ([]usageSeries, error) {
	column := "mem_pct"
	if resource == "cpu" {
		column = "cpu_pct"
	}
	var c collector
	err := readRows(dir, []string{"usage_gcd2011.csv*", "*gcd*.csv*"}, func(field func(string) string) {
		step, err := strconv.ParseInt(field("step"), 10, 32)
		v, ok := number(field(column))
		if err == nil && ok && step >= 0 {
			c.add(field("series"), 0, step*fiveMinutes, v)
		}
	})
	if err != nil {
		return nil, err
	}
	return c.done("gcd")
}

func readRows(dir string, patterns []string, row func(field func(string) string)) error {
	files, err := dataFiles(dir, patterns...)
	if err != nil {
		return err
	}
	f, err := openText(files[0])
	if err != nil {
		return err
	}
	defer f.Close()
	return table(f, row)
}

// readPlanetlab reads a line per VM and day: day, series, five-minute values of CPU in percent of one machine. Days are
// played one after the other, all VMs of a day side by side.
func readPlanetlab(dir, _ string) ([]usageSeries, error) {
	files, err := dataFiles(dir, "usage_planetlab_cpu.csv*", "*planetlab*.csv*")
	if err != nil {
		return nil, err
	}
	f, err := openText(files[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var c collector
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), ",", 3)
		if len(parts) < 3 {
			continue
		}
		day, err := time.Parse("20060102", strings.TrimSpace(parts[0]))
		if err != nil {
			continue
		}
		for i, text := range strings.FieldsFunc(parts[2], func(r rune) bool { return r == ' ' || r == ',' }) {
			if v, ok := number(text); ok {
				c.add(parts[0]+"/"+parts[1], 100, day.Unix()+int64(i)*fiveMinutes, v)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return c.done("planetlab")
}
