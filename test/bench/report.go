package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// report is the outcome of a whole run.
type report struct {
	Machine   machine  `json:"machine"`
	Command   string   `json:"command"`
	Rounds    int      `json:"rounds"`
	LoadAfter string   `json:"load_after"`
	Figures   []figure `json:"figures"`
}

const row = "%-33s %9s %9s %-20s %-16s %s\n"

// print writes the table, at most 100 columns wide.
func (r *report) print(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "\n%s, %s\nLinux %s, %d x %s, cgroup %s\ncontainerd %s, runc %s; load before %s, after %s\n\n",
		r.Command, m.Time.Format(time.DateTime), m.Kernel, m.CPUs, m.CPU, m.Cgroup, m.Containerd, m.Runc, m.Load, r.LoadAfter)
	fmt.Fprintf(out, row, "figure (median)", "stock", "Forefend", "change, by pairs", "target (aim)", "met")
	for _, f := range r.Figures {
		stock := f.Stock
		if stock == "" {
			stock = "-"
		}
		fmt.Fprintf(out, row, f.Name, stock, f.Forefend, f.Change, f.Target, f.Met)
	}
}

func (r *report) save(path string) error {
	body, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(body, '\n'), 0o644)
}
