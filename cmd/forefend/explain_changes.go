package main

import (
	"fmt"
	"strings"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// shownChanges are those that explain shows without --all.
const shownChanges = 5

// printChanges lists the changes of a running container, the newest first.
func printChanges(page *output.Page, changes []api.Change, all bool) {
	if len(changes) == 0 {
		return
	}
	page.Heading("Changes since it was created, the newest first")
	for i := range changes {
		if i == shownChanges && !all {
			page.Item(2, "", 2, fmt.Sprintf("and %d earlier ones (--all)", len(changes)-i))
			return
		}
		c := changes[len(changes)-1-i]
		page.Item(2, fmt.Sprintf("revision %d", c.Revision), valueAt, output.Time(c.Time)+"  "+c.By())
		told := false
		for _, r := range c.Results {
			switch r.Status {
			case api.ResultApplied:
				page.Item(2, "", valueAt, strings.Join(r.Changed, ", "))
			default:
				page.Item(2, "", valueAt, fmt.Sprintf("%s %s: %s (%s)", r.Lever, r.Status, r.Reason, strings.Join(r.Changed, ", ")))
			}
			told = true
		}
		if !told {
			page.Item(2, "", valueAt, "no value is another")
		}
	}
}
