package cri

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/e2e/harness"
)

// image runs another image's programs.
func image(name string) containerMod {
	return func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: harness.Image(name)} }
}

// world serves HTTP on the bridge of the pods and returns its address.
func (n *node) world(t *testing.T) string {
	t.Helper()
	var l net.Listener
	if err := n.InNetwork(func() (err error) {
		l, err = net.Listen("tcp", ":8080")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello from", r.URL.Path) })}
	served := make(chan struct{})
	go func() { _ = server.Serve(l); close(served) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return "http://10.88.0.1:8080"
}

// says waits for what a container prints.
func (c *container) says(t *testing.T, what string) {
	t.Helper()
	defer func() { t.Logf("it printed %s", c.output(t)) }()
	eventually(t, "it prints "+what, func() bool { return strings.Contains(c.output(t), what) })
}

// fetchIn fetches a page from a process's network, as this process.
func fetchIn(t *testing.T, pid int, url string) string {
	t.Helper()
	ns, err := enter.Process(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
			err = ns.Do(func() error {
				conn, err = net.DialTimeout(network, address, 20*time.Second)
				return err
			})
			return conn, err
		},
	}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestEgressContainers: rules see which of a pod's containers opened a connection: by its image, by its id, as it comes and goes. Who cannot
// be told gets what the strictest of them gets.
func TestEgressContainers(t *testing.T) {
	rules := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(rules, "pods.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const byImage = "[[rule]]\nname = \"boxes\"\nwhen = 'image.contains(\"busybox\")'\ntunnel = { encryption = \"none\" }\n"
	write(byImage)
	n := newNode(t, harness.WithImages("redis"), harness.WithConfig(fmt.Sprintf(
		"[egress]\nrules = %q\ndecide_within = \"2s\"\n[[tunnel]]\nname = \"uplink\"\nkind = \"direct\"\n", rules)))
	world := n.world(t)
	p := n.pod(t, forefend)
	fetch := "wget -q -O - " + world
	box := p.start(t, shell(fetch+"/first 2>&1; sleep 1000"))
	box.says(t, "hello from /first")

	// Another image in the same pod is asked for by the same program.
	busybox := filepath.Join(n.dir(t, "box"), "busybox")
	if err := os.WriteFile(busybox, []byte(readFile(t, fmt.Sprintf("/proc/%d/root/bin/busybox", box.pid(t)))), 0o755); err != nil {
		t.Fatal(err)
	}
	other := p.start(t, image("redis"), bind(busybox, "/busybox"), command("/busybox", "sh", "-c", "/busybox "+fetch+"/first 2>&1; /busybox sleep 1000"))
	other.says(t, "403")
	get := func(c *container, path string) string {
		if c == box {
			return c.exec(t, "sh", "-c", fetch+path+" 2>&1")
		}
		return c.exec(t, "/busybox", "sh", "-c", "/busybox "+fetch+path+" 2>&1")
	}
	for range 2 {
		if got := get(box, "/a"); !strings.Contains(got, "hello from /a") {
			t.Errorf("the container that may: %s", got)
		}
		if got := get(other, "/a"); !strings.Contains(got, "403") {
			t.Errorf("the container that may not: %s", got)
		}
	}

	// Nobody's: it is in no container's cgroup, as what a node's tools do in a pod's network is.
	if got := fetchIn(t, box.pid(t), world+"/nobody"); !strings.Contains(got, "strictest of 2 answers") || !strings.Contains(got, "which container opened the connection is not known") {
		t.Errorf("nobody's request: %s", got)
	}

	// By id, as another daemon-wide set of rules has it, and what is open of each is told apart.
	write(byImage + fmt.Sprintf("[[rule]]\nname = \"other\"\nwhen = 'container == %q'\ntunnel = { encryption = \"none\" }\n", other.id))
	eventually(t, "the rule for the other one holds", func() bool { return strings.Contains(get(other, "/b"), "hello from /b") })
	if got := get(box, "/b"); !strings.Contains(got, "hello from /b") {
		t.Errorf("the container that may still: %s", got)
	}

	// One container's own policy holds for it alone.
	if err := n.Forefend("set", other.id, "egress.block=10.88.0.1").Check(); err != nil {
		t.Fatal(err)
	}
	if got := get(other, "/c"); !strings.Contains(got, "403") {
		t.Errorf("the container whose policy blocks the address: %s", got)
	}
	if got := get(box, "/c"); !strings.Contains(got, "hello from /c") {
		t.Errorf("its neighbour: %s", got)
	}
}
