package api

import (
	"fmt"
	"strconv"
	"strings"

	"forefend.dev/forefend/runtime/workload"
)

// Event tells of a change of a container: who, why, each old and new value, and what was not done.
func (c Change) Event(f workload.Facts) Event {
	done, not := "no value is another", ""
	var changed, failed []string
	for _, r := range c.Results {
		switch r.Status {
		case ResultApplied:
			changed = append(changed, r.Changed...)
		case ResultRefused, ResultFailed:
			failed = append(failed, r.Lever+": "+r.Reason)
			not += fmt.Sprintf("; %s %s: %s", r.Lever, r.Status, r.Reason)
		}
	}
	if len(changed) > 0 {
		done = strings.Join(changed, ", ")
	}
	e := Event{
		Time: c.Time, ID: f.ID, Run: f.Run, Kind: EventUpdated, Message: fmt.Sprintf("%s: %s%s, revision %d", c.By(), done, not, c.Revision),
		Fields: map[string]string{"author": c.Author.String(), "source": c.Source, "reason": c.Reason, "revision": strconv.Itoa(c.Revision), "changed": strings.Join(changed, "; ")},
	}
	if len(failed) > 0 {
		e.Fields["failed"] = strings.Join(failed, "; ")
	}
	return e
}

// Attempt tells of a change of which nothing is in force, as Event does of others: inForce is the revision that stays.
func (c Change) Attempt(f workload.Facts, inForce int) Event {
	c.Revision = inForce
	e := c.Event(f)
	e.Message += " stays"
	return e
}

// Vain reports whether something was refused or failed, and nothing applied.
func Vain(results []Result) bool {
	vain := false
	for _, r := range results {
		switch r.Status {
		case ResultApplied:
			return false
		case ResultRefused, ResultFailed:
			vain = true
		}
	}
	return vain
}

// By names who made a change, and why.
func (c Change) By() string {
	by := c.Author.String()
	if c.Source != "" {
		by += " (" + c.Source + ")"
	}
	if c.Reason != "" {
		by += ", " + c.Reason
	}
	return by
}
