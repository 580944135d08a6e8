package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// Where the columns of explain begin.
const (
	factAt   = 14
	valueAt  = 22
	authorAt = 34
	whyAt    = 46
	sourceAt = 42
	listAt   = 4
	folded   = 8 // names of a list that are shown without --all
)

func (a *app) printDecision(d api.Decision, agent *api.Agent, all bool) error {
	page := output.NewPage(a.stdout)
	printFacts(page, d, agent)
	if len(d.Notes) > 0 {
		page.Heading("Notes")
		for _, n := range d.Notes {
			page.Item(2, "-", 4, n)
		}
	}
	printChanges(page, d.Changes, all)
	printRisk(page, d)
	printPrediction(page, d, all)
	if d.Scan != nil {
		scanLines(page, d.Scan, all)
	}
	printFindings(page, d.Findings)
	printAirbag(page, d.Airbag)
	printNode(page, d)
	printSources(page, d.Sources)
	for _, dimension := range policy.Dimensions {
		printDimension(page, dimension, d.Effective.Fields, all)
	}
	return page.Err()
}

func printFacts(page *output.Page, d api.Decision, agent *api.Agent) {
	f := d.Facts
	fact := func(lead, text string) {
		if text != "" {
			page.Item(0, lead, factAt, text)
		}
	}
	if f.ID.Container != "" {
		fact("Container", f.ID.String())
	}
	fact("Workload", f.Name())
	fact("Image", strings.TrimSpace(f.Image.Name+"  "+output.Truncate(f.Image.Digest, 20)))
	fact("Command", output.Truncate(output.Printable(strings.Join(f.Args, " ")), 3*(output.Width-factAt)))
	fact("Run as", runAs(f, d.Profile))
	fact("Decided", fmt.Sprintf("%s by %s, revision %d", output.Time(d.Time), decider(d.Availability), d.Revision))
	fact("Mode", fmt.Sprintf("%s, %s", policy.KeyMode.Format(d.Effective.Mode()), sealed(d.Effective.Sealed())))
	fact("Agent", inBrief(agent))
}

// inBrief says how it stands with an agent; "" where there is none to speak of.
func inBrief(agent *api.Agent) string {
	switch {
	case agent == nil:
		return ""
	case agent.Status != api.AgentRunning:
		return strings.TrimSuffix(agent.Status+": "+agent.Reason, ": ")
	}
	text := fmt.Sprintf("%s, process %d", agent.Status, agent.PID)
	if agent.Restarts > 0 {
		text += fmt.Sprintf(", replaced %d×, the last time because %s", agent.Restarts, agent.Reason)
	}
	for _, kind := range slices.Sorted(maps.Keys(agent.Faults)) {
		text += fmt.Sprintf("; fault of its channel: %s, %d×", kind, agent.Faults[kind])
	}
	return text
}

// printAirbag says how a predicted memory limit follows what the container needs.
func printAirbag(page *output.Page, t *api.Airbag) {
	if t == nil {
		return
	}
	size := func(n int64) string { return policy.KeyMemory.Format(policy.Value(n)) }
	page.Heading("Memory limit, predicted: raised before it is reached")
	page.Item(2, "predicted", valueAt, size(t.Predicted))
	page.Item(2, "raised up to", valueAt, size(t.Ceiling)+", "+t.CeilingBy)
	if t.Held != "" {
		page.Item(2, "held", valueAt, "growth above what was predicted is anomalous: "+t.Held)
	}
	if t.Growth > 0 {
		page.Item(2, "anomalous", valueAt, fmt.Sprintf("beyond %.3g times what was predicted: %s", t.Growth, t.GrowthBy))
	}
	if t.Sized != "" {
		page.Item(2, "lowered", valueAt, "never, "+t.Sized+" sizes itself by its limit when it starts")
	}
}

func runAs(f workload.Facts, profile string) string {
	parts := []string{fmt.Sprintf("uid %d", f.UID)}
	for _, p := range []struct{ name, value string }{{"user", f.User}, {"group", f.Group}, {"profile", profile}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	for _, p := range []struct {
		word string
		set  bool
	}{{"privileged", f.Privileged}, {"host network", f.HostNetwork}, {"host pids", f.HostPID}, {"user namespace", f.UserNS}} {
		if p.set {
			parts = append(parts, p.word)
		}
	}
	return strings.Join(parts, ", ")
}

func decider(by api.Availability) string {
	switch by {
	case api.ByDaemon:
		return "the daemon"
	case api.ByLastKnown:
		return "the shim while the daemon was away, from the workload's last sealed policy"
	case api.BySiteDefault:
		return "the shim while the daemon was away, from the site's default"
	case api.ByNobody:
		return "nobody: the daemon was away and the site says open"
	}
	return cmp.Or(string(by), "an unknown decider")
}

func sealed(yes bool) string {
	if yes {
		return "sealed: calls that no earlier run made are surprises"
	}
	return "not sealed: still learning"
}

func printPrediction(page *output.Page, d api.Decision, all bool) {
	p := d.Prediction
	if p.Runs == 0 && p.Level == "" {
		page.Heading("Prediction: none, no earlier run of anything like it is known")
		return
	}
	page.Heading(fmt.Sprintf("Prediction from %s of this %s", plural(p.Runs, "run"), p.Level))
	bound := func(name string, b workload.Bound, value string) {
		if b.Value <= 0 {
			page.Item(2, name, valueAt, "nothing can be said; "+cmp.Or(b.Basis, "too little is known"))
			return
		}
		page.Item(2, fmt.Sprintf("%-*s%s", valueAt-2, name, "<= "+value), authorAt,
			strings.TrimSuffix(fmt.Sprintf("in %s of runs; %s", output.Percent(b.Coverage), b.Basis), "; "))
	}
	bound("memory", p.Memory, policy.KeyMemory.Format(policy.Value(p.Memory.Value)))
	bound("cpus", p.CPU, output.CPUs(p.CPU.Value))
	bound("pids", p.PIDs, fmt.Sprint(int64(math.Ceil(p.PIDs.Value))))
	page.Item(2, "unseen", valueAt, output.Percent(p.Unseen)+" chance that the next run makes a call that none made before")
	if p.RootfsWrites != workload.Unknown {
		page.Item(2, "writes to rootfs", valueAt, string(p.RootfsWrites))
	}
	list(page, "calls seen", seen(d), all)
	list(page, "destinations", p.Destinations, all)
	var ways []string
	for _, w := range p.Ways {
		ways = append(ways, fmt.Sprintf("%s (%d of %d runs)", output.Printable(w.Way), w.Used, w.Runs))
	}
	list(page, "tunnels", ways, true)
}

// seen lists the calls of earlier runs, those of the fewest runs first: they are what a sealed policy hangs on. A call
// that is native by now is not counted any more, so nothing is said about how many runs made it.
func seen(d api.Decision) []string {
	p := d.Prediction
	names := slices.SortedFunc(maps.Keys(p.Seen), func(x, y string) int {
		return cmp.Or(cmp.Compare(p.Seen[x], p.Seen[y]), cmp.Compare(x, y))
	})
	for i, name := range names {
		now := d.Effective.Value(policy.KeySyscalls.Member(name), policy.SyscallWatch)
		if n := p.Seen[name]; n < p.Runs && now != policy.SyscallNative {
			names[i] = fmt.Sprintf("%s (%d of %d runs)", name, n, p.Runs)
		}
	}
	return names
}

func list(page *output.Page, lead string, names []string, all bool) {
	if len(names) > 0 {
		page.Item(2, lead, valueAt, fold(names, all))
	}
}

// fold joins names; without all it keeps the first few and counts the rest.
func fold(names []string, all bool) string {
	if all || len(names) <= folded+1 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more (--all)", strings.Join(names[:folded], ", "), len(names)-folded)
}

func printSources(page *output.Page, sources []api.Source) {
	if len(sources) == 0 {
		return
	}
	page.Heading("Sources asked")
	for _, s := range sources {
		page.Item(2, fmt.Sprintf("%-*s%-8s%9s", valueAt-2, output.Truncate(s.Name, valueAt-3), output.Truncate(s.Status, 7), output.Took(s.Took)), sourceAt, s.Reason)
	}
}

func printDimension(page *output.Page, d policy.Dimension, fields []policy.Field, all bool) {
	first := true
	for _, f := range fields {
		if f.Key.Dimension() != d {
			continue
		}
		if first {
			page.Heading(strings.ToUpper(string(d[:1])) + string(d[1:]))
			first = false
		}
		printField(page, f, all)
	}
}

func printField(page *output.Page, f policy.Field, all bool) {
	key := string(f.Key)
	if len(f.Names) > 0 {
		key = fmt.Sprintf("%s (%d)", f.Key, len(f.Names))
	}
	if f.NoValue {
		page.Item(2, column(key, "as asked", ""), whyAt, "nobody decided it")
	} else {
		page.Item(2, column(key, f.Key.Format(f.Value), f.Author.String()), whyAt, because(f.Origin))
	}
	for _, l := range f.Lost {
		why := l.Why
		if o := because(l.Origin); o != "" {
			why += "; it came from " + o
		}
		page.Item(2, column("  lost", f.Key.Format(l.Value), l.Author.String()), whyAt, why)
	}
	if len(f.Names) > 0 {
		page.Item(listAt, "", listAt, fold(f.Names, all))
	}
}

// column lays out the key, value and author of a line; a long one pushes the rest, and Page.Item then breaks the line.
func column(key, value, author string) string {
	return fmt.Sprintf("%-*s%-*s%s", valueAt-2, output.Truncate(key, valueAt-3), authorAt-valueAt, output.Truncate(value, authorAt-valueAt-1), author)
}

func because(o policy.Origin) string {
	switch {
	case o.Source == "":
		return o.Reason
	case o.Reason == "":
		return o.Source
	}
	return o.Source + ": " + o.Reason
}
