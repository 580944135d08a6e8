package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/netns/marks"
)

// lookups is an interceptor in a child: names that begin with a word are decided as it says, and all others lead to a mark.
type lookups struct {
	engine *intercept.Engine
	mark   atomic.Uint32
	mu     sync.Mutex
	seen   []string // protocol and host of each context; guarded by mu
}

// interceptor is the child's.
var interceptor *lookups

// Decide implements intercept.Decider.
func (l *lookups) Decide(_ context.Context, c flow.Context) (flow.Decision, error) {
	l.mu.Lock()
	l.seen = append(l.seen, fmt.Sprintf("%s:%s:%s:%s", c.Protocol, c.Host, c.HostProof, c.Destination.Addr()))
	l.mu.Unlock()
	switch word, _, _ := strings.Cut(c.Host, "."); word {
	case "denied":
		return flow.Decision{Profile: flow.Profile{Deny: true}}, nil
	case "undecided":
		return flow.Decision{}, errors.New("nobody decides")
	}
	return flow.Decision{}, nil
}

// Way implements intercept.Ways.
func (l *lookups) Way(context.Context, flow.Context, flow.Decision) (intercept.Way, error) {
	return intercept.Way{Tunnel: "it", Mark: l.mark.Load()}, nil
}

// intercepting starts the interceptor, or changes the mark.
func intercepting(port int, options map[string]string) error {
	mark, err := strconv.ParseUint(options["mark"], 0, 32)
	if err != nil {
		mark = marks.Direct
	}
	if interceptor != nil {
		interceptor.mark.Store(uint32(mark))
		return nil
	}
	l := &lookups{}
	l.mark.Store(uint32(mark))
	dialer := intercept.Marked{Ways: l}
	if l.engine, err = intercept.New(l, dialer, intercept.Limits{}); err != nil {
		return err
	}
	l.engine.Set(&intercept.Settings{Names: intercept.Names{Queries: 1_000_000}})
	listeners, err := intercept.Listen(uint16(port))
	if err != nil {
		return err
	}
	packets, err := intercept.ListenPackets(uint16(port))
	if err != nil {
		return err
	}
	for _, on := range listeners {
		go func() { _ = l.engine.Serve(on) }()
	}
	for _, on := range packets {
		go func() { _ = l.engine.ServePackets(on, dialer) }()
	}
	interceptor = l
	return nil
}

// seen are the contexts since the last time.
func (l *lookups) contexts() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Join(l.seen, " ")
	l.seen = nil
	return all
}

// script runs a shell's script, which may mount what it likes, and returns what it printed as one line.
func script(encoded string) (string, error) {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "unshare", "-m", "sh", "-c", string(text)).CombinedOutput()
	line := strings.Join(strings.Fields(string(out)), " ")
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, line)
	}
	return line, nil
}

// lookUp has Go's own resolver ask a server for a name's addresses.
func lookUp(server string, options map[string]string) (string, error) {
	network := options["network"]
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, by, _ string) (net.Conn, error) {
		if network != "" {
			by = network
		}
		return new(net.Dialer).DialContext(ctx, by, server)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addrs, err := r.LookupHost(ctx, options["name"]+".")
	return strings.Join(addrs, " "), err
}

// median is the p50 of queries to a server, one after the other, each from a socket of its own as resolvers do.
func median(server string, options map[string]string) (string, error) {
	n, err := strconv.Atoi(options["n"])
	if err != nil {
		return "", err
	}
	query, b := options["query"], make([]byte, 512)
	raw, err := base64.StdEncoding.DecodeString(query)
	if err != nil {
		return "", err
	}
	took := make([]time.Duration, 0, n)
	for range n {
		begun := time.Now()
		c, err := dial("udp", server, options)
		if err != nil {
			return "", err
		}
		_ = c.SetDeadline(begun.Add(patience))
		_, err = c.Write(raw)
		if err == nil {
			_, err = c.Read(b)
		}
		if err = errors.Join(err, c.Close()); err != nil {
			return "", err
		}
		took = append(took, time.Since(begun))
	}
	return fmt.Sprint(sorted(took)[n/2].Nanoseconds()), nil
}
