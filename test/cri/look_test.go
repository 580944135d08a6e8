package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pid is the container's first process, as the machine numbers it.
func (c *container) pid(t *testing.T) int {
	t.Helper()
	resp, err := c.runtime.ContainerStatus(within(t), &cri.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(resp.Info["info"]), &info); err != nil || info.PID == 0 {
		t.Fatalf("pid of container: %v in %s", err, resp.Info["info"])
	}
	return info.PID
}

// cgroup reads a file of the container's cgroup: v1's name is in the hierarchy of controller, v2's in the only one.
func (c *container) cgroup(t *testing.T, controller, v1, v2 string) string {
	t.Helper()
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid(t)))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		file := ""
		switch {
		case strings.Contains(","+parts[1]+",", ","+controller+","):
			file = "/sys/fs/cgroup/" + controller + parts[2] + "/" + v1
		case parts[0] == "0" && unified():
			file = "/sys/fs/cgroup" + parts[2] + "/" + v2
		default:
			continue
		}
		value, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(value))
	}
	t.Fatalf("no cgroup of %s in %s", controller, body)
	return ""
}

func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// connect opens a TCP connection from the node's network.
func (n *node) connect(address string) (conn net.Conn, err error) {
	err = n.InNetwork(func() (err error) {
		conn, err = net.DialTimeout("tcp", address, 20*time.Second)
		return err
	})
	return conn, err
}

// get fetches a page from the node's network.
func (n *node) get(address, path string) (string, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return n.connect(address) },
	}}
	resp, err := client.Get("http://" + address + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// shims counts the shims of a runtime handler that serve a pod.
func (p *pod) shims(t *testing.T, handler string) []int {
	t.Helper()
	name := map[string]string{stock: "containerd-shim-runc-v2", forefend: "containerd-shim-forefend-v1"}[handler]
	pids, err := p.Pids(name, "-id", p.id)
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// anonymous leaves out of a message what differs from one pod to the next: ids, the environment's directory, and the
// names of network namespaces.
func (n *node) anonymous(s string) string {
	s = ids.ReplaceAllString(strings.ReplaceAll(s, n.Dir, "DIR"), "ID")
	return netns.ReplaceAllString(s, "cni-NETNS")
}

var (
	ids   = regexp.MustCompile(`[0-9a-f]{64}`)
	netns = regexp.MustCompile(`cni-[0-9a-f-]{36}`)
)
