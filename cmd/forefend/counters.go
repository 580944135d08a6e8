package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/netns/intercept"
)

// showCounters prints what an agent's interceptor has counted since it began, in its own words.
func (a *app) showCounters(counted json.RawMessage, asJSON bool) error {
	var c intercept.Counters
	if err := json.Unmarshal(counted, &c); err != nil {
		return errors.Join(errors.New("the agent's answer makes no sense"), err)
	}
	if asJSON {
		return output.JSON(a.stdout, c)
	}
	return a.printCounters(c)
}

func (a *app) printCounters(c intercept.Counters) error {
	page := output.NewPage(a.stdout)
	page.Item(0, "Connections", factAt, counts(c.Connections, "taken", []count{{c.Open, "open"}, {c.Refused, "refused, beyond the quota"},
		{c.Failed, "without a way to the server"}, {c.Cut, "cut by new rules, or for what they became"}, {c.Direct, "to the interceptor itself"}}))
	malformed := []count{{c.Denied, "denied, other connections included"}, {c.Replayed, "sent once more"}, {c.MalformedHello, "malformed: TLS"}}
	for _, kind := range slices.Sorted(maps.Keys(c.Malformed)) {
		malformed = append(malformed, count{c.Malformed[kind], "malformed: " + output.Printable(string(kind))})
	}
	page.Item(0, "Requests", factAt, counts(c.Requests, "of HTTP", malformed))
	l := c.Lookups
	page.Item(0, "Names", factAt, counts(l.Queries, "queries", []count{{l.Denied, "denied"}, {l.None, "for names that do not exist"},
		{l.Failed, "without a decision, a tunnel or an answer"}, {l.Dropped, "dropped, beyond the pace"}, {l.Malformed, "malformed"}, {l.Withheld, "answered without records that hide hosts"}}))
	if l.Queries > 0 {
		page.Item(0, "", factAt, fmt.Sprintf("%s asked, %s answered; %d pairs of a name and an address remembered", output.Bytes(l.Asked), output.Bytes(l.Answered), l.Known))
	}
	if l.Forged > 0 {
		page.Item(0, "", factAt, fmt.Sprintf("%d datagrams from a server's address that answer nothing: forged, or late", l.Forged))
	}
	return page.Err()
}

// count is how often something came to pass.
type count struct {
	n    int64
	what string
}

// counts is a sum, and of the rest what came to pass at all.
func counts(n int64, what string, rest []count) string {
	all := []string{fmt.Sprint(n, " ", what)}
	for _, c := range rest {
		if c.n > 0 {
			all = append(all, fmt.Sprint(c.n, " ", c.what))
		}
	}
	return strings.Join(all, "; ")
}
