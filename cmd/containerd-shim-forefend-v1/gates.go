package main

import (
	"sync"

	"forefend.dev/forefend/netns/gate"
	"forefend.dev/forefend/shim"
)

// gates are the node's gates for the shim, opened when the first container needs one.
type gates struct {
	dir string // where processes of the node find what is loaded

	mu   sync.Mutex
	node *gate.Gates // guarded by mu
}

func (g *gates) open() (*gate.Gates, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.node != nil {
		return g.node, nil
	}
	node, err := gate.Open(g.dir)
	if err != nil {
		return nil, err
	}
	g.node = node
	return node, nil
}

// Ready implements shim.Gates.
func (g *gates) Ready() error {
	_, err := g.open()
	return err
}

// Gate implements shim.Gates.
func (g *gates) Gate(dir string, pid int, seen func(shim.Passage)) (shim.Gate, error) {
	node, err := g.open()
	if err != nil {
		return nil, err
	}
	opened, err := node.Open(dir, pid, func(e gate.Event) { seen(passage(e)) })
	if err != nil {
		return nil, err
	}
	return oneGate{opened}, nil
}

// Close implements shim.Gates.
func (g *gates) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.node == nil {
		return nil
	}
	node := g.node
	g.node = nil
	return node.Close()
}

type oneGate struct{ *gate.Gate }

// Set implements shim.Gate.
func (g oneGate) Set(r shim.GateRules) error {
	rules := gate.Rules{Off: r.Off, Closed: r.Closed, Allow: r.Allow, Block: r.Block}
	switch {
	case r.BlockListed:
		rules.Feeds = gate.FeedsBlock
	case r.WatchListed:
		rules.Feeds = gate.FeedsWatch
	}
	return g.Gate.Set(rules)
}

func passage(e gate.Event) shim.Passage {
	return shim.Passage{
		Accepted: e.Kind == gate.Accepted, Port: e.Port, Destination: e.Destination(), Refused: e.Kind.Refused(),
		Listed: e.Kind == gate.RefusedFeed || e.Kind == gate.SeenFeed, Why: e.Kind.String(), Packets: e.Packets,
	}
}
