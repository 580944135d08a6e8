package main

import (
	"context"
	"errors"
	"fmt"
)

// streamTurns are what was measured of one proxy, a sample for each round.
type streamTurns struct {
	Rate []float64 `json:"rate"` // HTTP/2 requests a second of the proxy's CPU time, thousands
	GRPC []float64 `json:"grpc"` // CPU for each call of gRPC, µs
}

// streamServers are what answers: the command inside, and what a figure says of it.
var streamServers = []struct{ command, name string }{{"server", ""}, {"library", ", a server of Go's library"}}

// measureStreams compares what HTTP/2 costs the interceptor, with a thousand rules, with haproxy and Go's ReverseProxy, which
// decide nothing, in the namespaces that egress is measured in.
func measureStreams(ctx context.Context, b *bench) (figures []figure, err error) {
	for _, server := range streamServers {
		of, err := measuredInside[streamTurns](ctx, b, "streams", server.command)
		if err != nil {
			return nil, err
		}
		ours, ok := of[egressOurs]
		if !ok {
			return nil, errors.New("nothing was measured")
		}
		call := alone("gRPC call, 1000 rules, CPU (µs)"+server.name, fmt.Sprintf("%.2f", median(ours.GRPC)), ours.GRPC)
		figures = append(figures, call.hold(target{must: 15, aim: 10, unit: " µs"}, median(ours.GRPC)))
		figures = append(figures, streamRatios(of, server.name)...)
	}
	return figures, nil
}

// streamRatios are requests of the interceptor for a second of its CPU, against each peer's.
func streamRatios(of map[string]streamTurns, server string) (figures []figure) {
	ours := of[egressOurs]
	for _, peer := range []struct {
		name   string
		target target
	}{{"haproxy", target{must: 2, aim: 3, atLeast: true, unit: "×"}}, {"ReverseProxy", target{must: 8, aim: 10, atLeast: true, unit: "×"}}} {
		name := "HTTP/2, 1000 rules, thousand requests for a second of CPU" + server + ", against " + peer.name
		theirs, ok := of[peer.name]
		if !ok {
			figures = append(figures, alone(name+"; it is not installed", fmt.Sprintf("%.1f", median(ours.Rate)), ours.Rate))
			continue
		}
		f := paired(name, "%.1f", "%.2f×", theirs.Rate, ours.Rate, func(peer, ours float64) float64 { return ours / peer })
		figures = append(figures, f.hold(peer.target, f.Value))
	}
	return figures
}
