package meter

import (
	"slices"
	"testing"

	"forefend.dev/forefend/netns/gateway"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/runtime/reception"
)

func fewGateway() GatewayStanding {
	return GatewayStanding{
		Figures: gateway.Figures{Clients: 2, Leases: 3, Most: 4096, Addresses: 1000, Given: 7, Mended: 1, Missed: 5,
			Ended: map[gateway.Reason]uint64{gateway.Expired: 3, gateway.Released: 1, "else": 9}, Dropped: map[nft.Counter]uint64{nft.Spoofed: 11, "else": 9}},
		Door: gateway.DoorFigures{Connections: 4, Refused: reception.Counts{Strangers: 12, Crowding: 13}, Answers: map[gateway.Answer]uint64{
			{Request: "renew", Outcome: "done"}: 14, {Request: "allocate", Outcome: "limited"}: 15, {Request: "else", Outcome: "done"}: 9}},
	}
}

// TestScrapeOfGateway shows a gateway's figures, and no series that is not on a list.
func TestScrapeOfGateway(t *testing.T) {
	path := socketPath(t)
	serve(t, NewGateway("v1", fewGateway), "unix", path)
	f := scrape(t, overUnix(path), "http://forefend/metrics")
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"forefend_build_info", []string{"version=v1", "api=1"}, 1},
		{"forefend_gateway_clients", nil, 2},
		{"forefend_gateway_leases", nil, 3},
		{"forefend_gateway_leases_limit", nil, 4096},
		{"forefend_gateway_free_addresses", nil, 1000},
		{"forefend_gateway_leases_given_total", nil, 7},
		{"forefend_gateway_leases_ended_total", []string{"reason=expired"}, 3},
		{"forefend_gateway_leases_ended_total", []string{"reason=revoked"}, 0},
		{"forefend_gateway_leases_ended_total", nil, 4},
		{"forefend_gateway_rules_mended_total", nil, 1},
		{"forefend_gateway_receipts_missed_total", nil, 5},
		{"forefend_gateway_dropped_packets_total", []string{"cause=spoofed"}, 11},
		{"forefend_gateway_dropped_packets_total", nil, 11},
		{"forefend_gateway_connections", nil, 4},
		{"forefend_gateway_connections_refused_total", []string{"cause=stranger"}, 12},
		{"forefend_gateway_connections_refused_total", []string{"cause=crowding"}, 13},
		{"forefend_gateway_requests_total", []string{"request=renew", "outcome=done"}, 14},
		{"forefend_gateway_requests_total", []string{"request=allocate", "outcome=limited"}, 15},
		{"forefend_gateway_requests_total", nil, 29},
	} {
		if got := value(f, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	if n := len(f["forefend_gateway_requests_total"].Metric); n != len(gateway.Requests)*len(gateway.Outcomes) {
		t.Errorf("%d series of requests", n)
	}
	if n := len(f["forefend_gateway_dropped_packets_total"].Metric); n != len(nft.GatewayCauses) || !slices.Contains(nft.GatewayCauses, nft.Strange) {
		t.Errorf("%d series of dropped packets", n)
	}
}

// TestScrapeWithoutRules: what the kernel does not tell is left out, and not zero.
func TestScrapeWithoutRules(t *testing.T) {
	path := socketPath(t)
	serve(t, NewGateway("v1", func() GatewayStanding { return GatewayStanding{} }), "unix", path)
	f := scrape(t, overUnix(path), "http://forefend/metrics")
	if f["forefend_gateway_dropped_packets_total"] != nil || value(f, "forefend_gateway_leases") != 0 {
		t.Errorf("%v", f)
	}
}
