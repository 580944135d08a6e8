package main

import (
	"bytes"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/netns/intercept/http1"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// TestFlowsWidth: with the longest names and the largest numbers no line of forefend flows is wider than a page.
func TestFlowsWidth(t *testing.T) {
	long := strings.Repeat("long-name.", 25)
	const serial = 1<<48 - 1 // of a gateway that was started 65535 times
	local := netip.MustParseAddrPort("[2001:db8:ffff:ffff:ffff:ffff:ffff:fff1]:65535")
	remote := netip.MustParseAddrPort("[2001:db8:ffff:ffff:ffff:ffff:ffff:fff2]:65534")
	began := time.Now().Add(-20000 * time.Hour)
	account := &flow.Account{Local: local, Remote: remote, Tunnel: long, Began: began, Sent: math.MaxInt64, Received: math.MaxInt64}
	receipt := &flow.Receipt{Serial: serial, Age: 20000 * time.Hour, Bytes: math.MaxInt64, BytesBack: math.MaxInt64, Packets: math.MaxUint64}
	flows := []intercept.Flow{{
		Context: flow.Context{Protocol: flow.HTTP, Method: "PROPFIND", Host: long, Path: "/" + long, User: long, UserProof: flow.Claimed, Data: long, Destination: remote},
		Rules:   []string{long, long}, RuleVersion: rules.Digest(nil), Tunnel: long, Local: local, Started: began, Sent: math.MaxInt64, Received: math.MaxInt64,
	}}
	others := append([]intercept.Flow{{}}, flows...)
	reconciled := &api.Reconciled{
		Verdicts: []flow.Verdict{
			{Local: local, Remote: remote, Tunnel: long, Standing: flow.Unclaimed, Why: "the gateway has counted " + long, Ended: true, Cut: true, Account: account, Receipt: receipt},
			{Local: remote, Remote: local, Tunnel: "eu", Standing: flow.Agrees, Account: account, Receipt: &flow.Receipt{Serial: serial, Final: true}},
			{Protocol: 17, Remote: remote, Tunnel: long, Standing: flow.Differs, Why: long, Account: &flow.Account{Sent: math.MaxInt64, Received: math.MaxInt64}, Receipt: receipt},
		},
		Faults:  []flow.Verdict{{Tunnel: long, Standing: flow.Forged, Why: "the signature is another's: " + long}},
		Without: []string{long, long}, Left: math.MaxInt32, Trouble: []string{"tunnel " + long + ": gateway https://" + long + ":7443 cannot be asked"},
	}
	const most = math.MaxInt64
	counters := intercept.Counters{
		Connections: most, Open: most, Refused: most, Failed: most, Cut: most, Direct: most, Requests: most, Denied: most, Replayed: most, MalformedHello: most,
		Malformed: map[http1.Kind]int64{http1.Kind(long): most, http1.TooLarge: most},
	}
	counters.Lookups.Queries, counters.Lookups.Denied, counters.Lookups.None, counters.Lookups.Failed, counters.Lookups.Dropped = most, most, most, most, most
	counters.Lookups.Malformed, counters.Lookups.Withheld, counters.Lookups.Asked, counters.Lookups.Answered, counters.Lookups.Forged = most, most, most, most, most
	for name, test := range map[string]struct {
		print func(*app) error
		has   []string // what must not be cut away
	}{
		"flows":      {func(a *app) error { return a.printFlows(flows) }, []string{"PROPFIND", "8E / 8E", "All by version e3b0c44298fc of the rules."}},
		"of one":     {func(a *app) error { return a.printFlows(others[:1]) }, []string{"RULES"}},
		"of several": {func(a *app) error { return a.printFlows(others) }, []string{"VERSION", "e3b0c44298fc"}},
		"--verify":   {func(a *app) error { return a.printReceipts(reconciled, flows) }, []string{"unclaimed", "agrees", "datagrams to", "Wrong", "Not compared", "Left out", "Trouble"}},
		"--counters": {func(a *app) error { return a.printCounters(counters) }, []string{"Connections", "Requests", "Names"}},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := test.print(&app{stdout: &b}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				if n := output.Columns(strings.TrimSuffix(line, "\n")); n > output.Width {
					t.Errorf("%d columns: %s", n, line)
				}
			}
			for _, text := range test.has {
				if !strings.Contains(b.String(), text) {
					t.Errorf("without %q:\n%s", text, b.String())
				}
			}
		})
	}
}
