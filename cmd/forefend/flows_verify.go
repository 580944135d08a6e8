package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// errContradicted says that --verify has found something, so that scripts notice.
var errContradicted = errors.New("the agent's word and the gateways' receipts contradict each other")

// showReceipts shows what gateways say of a container's connections.
func (a *app) showReceipts(r *api.Reconciled, flows []intercept.Flow, asJSON bool) error {
	if r == nil {
		return errors.New("the container's shim is of a release without receipts, or its agent does not run")
	}
	wrong := slices.ContainsFunc(r.Verdicts, func(v flow.Verdict) bool { return v.Standing.Fault() }) || len(r.Faults) > 0
	var err error
	if asJSON {
		err = output.JSON(a.stdout, r)
	} else {
		err = a.printReceipts(r, flows)
	}
	if err == nil && wrong {
		err = errContradicted
	}
	return err
}

func (a *app) printReceipts(r *api.Reconciled, flows []intercept.Flow) error {
	table := output.NewTable(
		output.Column{Name: "AGE"}, output.Column{Name: "CONNECTION", Min: 16}, output.Column{Name: "TUNNEL", Min: 6},
		output.Column{Name: "AGENT", Note: "sent / received", Right: true}, output.Column{Name: "GATEWAY", Note: "with headers", Right: true},
		output.Column{Name: "RECEIPT", Right: true}, output.Column{Name: "VERDICT", Min: 9}, // the longest standing is to be read
	)
	page := output.NewPage(a.stdout)
	for _, v := range r.Verdicts {
		age, agent, gateway, serial := "-", "-", "-", "-"
		if c := v.Account; c != nil {
			agent = output.Bytes(int64(c.Sent)) + " / " + output.Bytes(int64(c.Received))
		}
		if c := v.Account; c != nil && !c.Began.IsZero() {
			age = output.Age(time.Since(c.Began))
		}
		if c := v.Receipt; c != nil {
			gateway, serial = output.Bytes(int64(c.Bytes))+" / "+output.Bytes(int64(c.BytesBack)), short(c)
		}
		table.Row(age, connectionOf(v, flows), v.Tunnel, agent, gateway, serial, verdictOf(v))
	}
	page.Table(table)
	for _, v := range append(slices.Clone(r.Verdicts), r.Faults...) {
		if v.Why != "" && v.Standing.Fault() {
			page.Item(0, "Wrong", factAt, strings.TrimSpace(fmt.Sprintf("%s: %s", whichOf(v), v.Why)))
		}
	}
	if len(r.Without) > 0 {
		page.Item(0, "Not compared", factAt, fmt.Sprintf("what goes by %s: the far end is no forefend gateway, and gives no receipts", strings.Join(r.Without, ", ")))
	}
	if r.Unlisted > 0 {
		page.Item(0, "Not listed", factAt, plural(r.Unlisted, "more connection"))
	}
	if r.Left > 0 {
		page.Item(0, "Left out", factAt, fmt.Sprintf("%s: more ended at once than are kept", plural(int(r.Left), "connection")))
	}
	for _, t := range r.Trouble {
		page.Item(0, "Trouble", factAt, t)
	}
	return page.Err()
}

// connectionOf is what a connection is for, where it is open, else where it leads.
func connectionOf(v flow.Verdict, flows []intercept.Flow) string {
	if !v.Connected() {
		return v.Subject()
	}
	i := slices.IndexFunc(flows, func(f intercept.Flow) bool { return f.Local == v.Local && f.Context.Destination == v.Remote })
	if i < 0 {
		return v.Remote.String()
	}
	return requestOf(flows[i].Context)
}

func whichOf(v flow.Verdict) string {
	return cmp.Or(v.Subject(), "tunnel "+v.Tunnel)
}

// short is a receipt's serial, with how many starts of the gateway it comes after, and its age.
func short(c *flow.Receipt) string {
	text := fmt.Sprintf("%d.%d", c.Serial>>32, uint32(c.Serial))
	if c.Final {
		return text + " final"
	}
	return text + " " + output.Age(max(c.Age, 0).Round(time.Second))
}

func verdictOf(v flow.Verdict) string {
	text := string(v.Standing)
	if v.Ended {
		text = cmp.Or(text, "-") + ", ended"
	}
	if v.Cut {
		text += ", cut"
	}
	return text
}
