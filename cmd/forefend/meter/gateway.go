package meter

import (
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"forefend.dev/forefend/netns/gateway"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/provision"
)

// GatewayStanding is what holds at the moment of a scrape of `forefend gateway`, and what it has counted.
type GatewayStanding struct {
	gateway.Figures
	Door gateway.DoorFigures
}

// NewGateway returns the figures of a gateway. now is called for each scrape, possibly by several goroutines.
func NewGateway(version string, now func() GatewayStanding) *Figures {
	f := &Figures{registry: prometheus.NewRegistry()}
	f.registry.MustRegister(build(version, provision.Version), gatewayStanding(now), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return f
}

// build is always 1, and has of which build the process is.
func build(version string, api int) prometheus.Collector {
	b := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "forefend_build_info", Help: "The build of the process; the value is always 1.",
		ConstLabels: prometheus.Labels{"version": version, "api": strconv.Itoa(api), "goversion": runtime.Version()},
	})
	b.Set(1)
	return b
}

var (
	gatewayClients   = describe("forefend_gateway_clients", "Nodes of the gateway's list.")
	gatewayLeases    = describe("forefend_gateway_leases", "Leases that nodes have.")
	gatewayMost      = describe("forefend_gateway_leases_limit", "Leases that the gateway gives at once.")
	gatewayAddresses = describe("forefend_gateway_free_addresses", "Addresses of each pool that can be given out.")
	gatewayGiven     = describe("forefend_gateway_leases_given_total", "Leases given out since the start.")
	gatewayEnded     = describe("forefend_gateway_leases_ended_total", "Leases that have ended since the start.", "reason")
	gatewayMended    = describe("forefend_gateway_rules_mended_total", "Times that rules of netfilter were gone and put in force again.")
	gatewayMissed    = describe("forefend_gateway_receipts_missed_total", "Times that ends of connections were not heard of.")
	gatewayDropped   = describe("forefend_gateway_dropped_packets_total", "Packets that the gateway's rules have dropped since they were put in force.", "cause")
	gatewayConns     = describe("forefend_gateway_connections", "Connections of nodes that have shown a certificate.")
	gatewayRefused   = describe("forefend_gateway_connections_refused_total", "Connections of nodes that were not taken.", "cause")
	gatewayRequests  = describe("forefend_gateway_requests_total", "Requests of nodes.", "request", "outcome")
)

// gatewayStanding collects what holds at the moment of a scrape.
type gatewayStanding func() GatewayStanding

// Describe implements prometheus.Collector.
func (gatewayStanding) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{gatewayClients, gatewayLeases, gatewayMost, gatewayAddresses, gatewayGiven, gatewayEnded, gatewayMended, gatewayMissed,
		gatewayDropped, gatewayConns, gatewayRefused, gatewayRequests} {
		to <- d
	}
}

// Collect implements prometheus.Collector. Each label has all values of its list, zero included.
func (now gatewayStanding) Collect(to chan<- prometheus.Metric) {
	s := now()
	gauge := func(d *prometheus.Desc, v int) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(gatewayClients, s.Clients)
	gauge(gatewayLeases, s.Leases)
	gauge(gatewayMost, s.Most)
	gauge(gatewayAddresses, s.Addresses)
	gauge(gatewayConns, s.Door.Connections)
	counter(gatewayGiven, s.Given)
	counter(gatewayMended, s.Mended)
	counter(gatewayMissed, s.Missed)
	for _, why := range gateway.Reasons {
		counter(gatewayEnded, s.Ended[why], string(why))
	}
	for _, cause := range nft.GatewayCauses {
		if s.Dropped != nil { // a figure that is missing says so itself
			counter(gatewayDropped, s.Dropped[cause], string(cause))
		}
	}
	counter(gatewayRefused, s.Door.Refused.Strangers, "stranger")
	counter(gatewayRefused, s.Door.Refused.Crowding, "crowding")
	for _, request := range gateway.Requests {
		for _, outcome := range gateway.Outcomes {
			counter(gatewayRequests, s.Door.Answers[gateway.Answer{Request: request, Outcome: outcome}], request, outcome)
		}
	}
}
