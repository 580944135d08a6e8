package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/test/e2e/harness"
)

// routeRules are much like those of docs/egress.md, with names for which `forefend flows` has room.
const routeRules = `[[rule]]
name = "confidential"
when = 'user == "admin" && data == "confidential"'
tunnel = { encryption = "strong", dedicated = true }
[[rule]]
name = "payments"
when = 'host == "pay.example" || host.endsWith(".pay.example")'
tunnel = { encryption = "standard", rate = "50mbit" }
[[rule]]
name = "public-reads"
when = 'operation == "read" && data == "public"'
tunnel = { encryption = "none" }
`

// routeConfig is in force in the container's configuration, with what leads to the gateways. A busy machine may take its time to decide.
const routeConfig = `[egress]
rules = %q
default = { tunnel = { encryption = "standard" } }
decide_within = "2s"

[[tunnel]]
name = "uplink"
kind = "direct"
`

// routed is a request, the rule that has to decide about it, and the way that it has to go.
type routed struct {
	headers   []string
	rule, way string
}

var routedRequests = []routed{
	{[]string{"Host: files.example", "X-Forefend-User: admin", "X-Forefend-Data: confidential"}, "confidential", "strong-1"},
	{[]string{"Host: pay.example", "X-Forefend-Data: internal"}, "payments", "standard-1"},
	{[]string{"Host: files.example", "X-Forefend-Data: public"}, "public-reads", "uplink"},
}

// routedTo is the server that all of them ask.
const routedTo = "192.0.2.1"

// data is the request's class of data, by which it is told from the others.
func (r routed) data() string { return dataIn(strings.Join(r.headers, "\r\n") + "\r\n") }

var dataHeader = regexp.MustCompile(`(?i)\bx-forefend-data: *(\S+)\r\n`)

// dataIn is the class of data that a head of HTTP names, "" if it names none.
func dataIn(head string) string {
	if m := dataHeader.FindStringSubmatch(head); m != nil {
		return m[1]
	}
	return ""
}

// lookout is a place where what the container sends is captured.
type lookout struct {
	way, place string
	capture    *harness.Capture
}

// saw returns the classes of data of the requests that passed, and the number of packets.
func (l lookout) saw() (classes []string, packets int) {
	segments, packets := l.capture.Packets()
	for _, s := range segments {
		if class := dataIn(string(s.Payload)); class != "" && !slices.Contains(classes, class) { // segments may be sent again
			classes = append(classes, class)
		}
	}
	return classes, packets
}

// crossroads is a containerd of its own, since egress closes every container of a configuration; with two gateways, a world behind
// each and one at the container's own uplink.
type crossroads struct {
	env      *harness.Env
	rules    string // a directory
	worlds   []*harness.World
	lookouts []lookout
}

func newCrossroads(ctx context.Context) (x *crossroads, err error) {
	x = &crossroads{}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.close())
		}
	}()
	if x.rules, err = os.MkdirTemp("", "ffdemo-rules-"); err != nil {
		return x, err
	}
	if err := os.WriteFile(filepath.Join(x.rules, "routes.toml"), []byte(routeRules), 0o600); err != nil {
		return x, err
	}
	config := fmt.Sprintf(routeConfig, x.rules)
	for _, level := range []string{"strong", "standard"} {
		g, err := harness.NewGateway(level+"-1", level)
		if err != nil {
			return x, err
		}
		config += g.Config
		if err := x.add(g.World, g.Name); err != nil {
			return x, err
		}
		if err := x.watch(g.World, harness.GatewayDevice, g.Name, "gateway "+g.Name+", its WireGuard device"); err != nil {
			return x, err
		}
	}
	x.env, err = harness.Start(ctx, harness.WithImages("busybox"), harness.WithConfig(config))
	return x, err
}

// add has a server behind a way out, which tells the way's name.
func (x *crossroads) add(w *harness.World, way string) error {
	x.worlds = append(x.worlds, w)
	_, err := w.Serve(way)
	return err
}

func (x *crossroads) watch(w *harness.World, device, way, place string) error {
	c, err := w.Capture(device)
	if err == nil {
		x.lookouts = append(x.lookouts, lookout{way, place, c})
	}
	return err
}

// start starts a container that sleeps, with a world at its uplink.
func (x *crossroads) start(ctx context.Context, id string) error {
	w, err := harness.NewWorld()
	if err != nil {
		return err
	}
	if err := x.add(w, "uplink"); err != nil {
		return err
	}
	device, err := x.env.StartLinked(ctx, w, id, "--runtime", forefendRuntime, harness.Image("busybox"), id, "sleep", "1000")
	if err != nil {
		return err
	}
	return x.watch(w, device, "uplink", "the container's own uplink")
}

func (x *crossroads) close() error {
	var err error
	if x.env != nil {
		err = x.env.Close()
	}
	for _, w := range x.worlds {
		w.Close()
	}
	return errors.Join(err, os.RemoveAll(x.rules))
}

// routes shows that each request of a container leaves by the way its headers demand.
func (d *demo) routes(ctx context.Context) (err error) {
	d.step("One container, three requests that differ only in their headers, three routes")
	x, err := newCrossroads(ctx)
	if err != nil {
		return err
	}
	defer func(before *harness.Env) {
		d.env = before
		err = errors.Join(err, x.close())
	}(d.env)
	d.env = x.env
	d.say("  Ways out: WireGuard to gateway strong-1, with a pre-shared key; WireGuard to gateway standard-1;")
	d.say("  and uplink, the container's own link. Behind each of them is a server %s. The rules:", routedTo)
	d.say("")
	d.show(indented(routeRules))
	d.say("")
	const id = "router"
	if err := x.start(ctx, id); err != nil {
		return err
	}
	for n, r := range routedRequests {
		if err := d.ask(ctx, id, n, r); err != nil {
			return err
		}
	}
	if err := d.flows(ctx, id); err != nil {
		return err
	}
	return d.captured(ctx, x.lookouts)
}

// ask makes a request in the container, on a connection that stays, and shows who answered.
func (d *demo) ask(ctx context.Context, id string, n int, r routed) error {
	d.say("  GET / from %s, %s", routedTo, strings.Join(r.headers, ", "))
	head := strings.Join(append([]string{"GET / HTTP/1.1"}, r.headers...), `\r\n`) + `\r\n\r\n`
	answer := fmt.Sprintf("/dev/shm/answer-%d", n)
	script := fmt.Sprintf("(printf '%s'; sleep 600) | nc %s %s > %s", head, routedTo, harness.WebPort, answer)
	if _, err := d.ctr(ctx, "task", "exec", "--detach", "--exec-id", fmt.Sprintf("ask-%d", n), id, "sh", "-c", script); err != nil {
		return err
	}
	looks := 0
	var said string
	err := until(ctx, func() error {
		looks++
		text, err := d.ctr(ctx, "task", "exec", "--exec-id", fmt.Sprintf("look-%d-%d", n, looks), id, "cat", answer)
		if said = lastLine(text); err == nil && said == "" {
			err = errors.New("no answer yet")
		}
		return err
	})
	if err != nil {
		return err
	}
	d.claim(said == r.way, "the server behind %s answered", said)
	return nil
}

// flows shows the connections, as the container's agent tells of them.
func (d *demo) flows(ctx context.Context, id string) error {
	d.say("")
	d.say("  $ forefend flows %s", id)
	text, err := d.forefend(ctx, "flows", id)
	if err != nil {
		return err
	}
	d.show(text)
	var flows []intercept.Flow
	if err := d.forefendJSON(ctx, &flows, "flows", id); err != nil {
		return err
	}
	right := 0
	for _, r := range routedRequests {
		if slices.ContainsFunc(flows, func(f intercept.Flow) bool {
			return f.Context.Data == r.data() && slices.Equal(f.Rules, []string{r.rule}) && f.Tunnel == r.way && f.Verified
		}) {
			right++
		}
	}
	d.claim(right == len(routedRequests) && len(flows) == right, "each has its rule and its way, which the agent read back from the socket")
	return nil
}

const captureRow = "  %-42s %8s  %s"

// captured shows what passed where.
func (d *demo) captured(ctx context.Context, lookouts []lookout) error {
	d.say("")
	d.say(captureRow, "what the container sent, captured at", "packets", "class of data requested")
	right := 0
	for _, l := range lookouts {
		if err := until(ctx, func() error {
			if classes, _ := l.saw(); len(classes) == 0 {
				return fmt.Errorf("no request was captured at %s", l.place)
			}
			return nil
		}); err != nil {
			return err
		}
		classes, packets := l.saw()
		d.say(captureRow, l.place, strconv.Itoa(packets), strings.Join(classes, ", "))
		for _, r := range routedRequests {
			if r.way == l.way && slices.Equal(classes, []string{r.data()}) {
				right++
			}
		}
	}
	d.claim(right == len(routedRequests), "each request was seen where its rule sends it, and nowhere else")
	return nil
}
