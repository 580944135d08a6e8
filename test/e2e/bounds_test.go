package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// TestHugeConfig has specs of every kind of hugeness: through containerd as far as its messages go, and put into the bundle behind its
// back, where nothing else bounds them. What is refused is refused by name, in seconds, with a small shim, and leaves nothing.
func TestHugeConfig(t *testing.T) {
	h := newHost(t)
	h.mustRun(t, sh("true"))
	many := func(n int, format string) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = fmt.Sprintf(format, i)
		}
		return out
	}
	objects := func(n int, object func(i int) any) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = object(i)
		}
		return out
	}
	for name, test := range map[string]struct {
		edit  func(spec)
		says  string // of the refusal; empty: as stock
		stock bool   // compare with it
	}{
		"100,000 environment variables": {edit: func(s spec) { s.at("process")["env"] = append(many(100_000, "V%d="), "PATH=/bin") }, stock: true},
		"100,000 mounts": {edit: func(s spec) {
			s["mounts"] = objects(100_000, func(i int) any {
				return map[string]any{"destination": fmt.Sprint("/m", i), "type": "tmpfs", "source": "tmpfs"}
			})
		}, says: "values, the most is"},
		"100,000 devices": {edit: func(s spec) {
			s.at("linux")["devices"] = objects(100_000, func(i int) any {
				return map[string]any{"path": fmt.Sprint("/dev/x", i), "type": "c", "major": 1, "minor": i}
			})
		}, says: "values, the most is"},
		"100,000 rlimits": {edit: func(s spec) {
			s.at("process")["rlimits"] = objects(100_000, func(i int) any { return map[string]any{"type": "RLIMIT_NOFILE", "soft": i, "hard": i} })
		}, says: "values, the most is"},
		"30,000 rlimits": {edit: func(s spec) {
			s.at("process")["rlimits"] = objects(30_000, func(i int) any { return map[string]any{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024} })
		}, stock: true},
		"nested beyond Go's own bound": {edit: func(s spec) { s["x"] = nested(10_500) }, says: "exceeded max depth"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			got := h.runSpec(t, forefend, test.edit, "true")
			took := time.Since(began)
			if took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			t.Logf("%s: %v in %v", name, brief(got.err), took)
			if test.says != "" && (got.err == nil || !strings.Contains(got.err.Error(), test.says)) {
				t.Errorf("not refused by name: %v", brief(got.err))
			}
			if test.stock {
				if want := h.runSpec(t, stock, test.edit, "true"); (want.err == nil) != (got.err == nil) || want.code != got.code {
					t.Errorf("stock: %d %v, forefend: %d %v", want.code, brief(want.err), got.code, brief(got.err))
				}
			}
		})
	}
	for name, text := range map[string]func(original []byte) []byte{
		"100 MB": func(b []byte) []byte {
			return append(bytes.TrimSuffix(bytes.TrimSpace(b), []byte("}")), []byte(`,"x":"`+strings.Repeat("x", 100_000_000)+`"}`)...)
		},
		"100 MB of lists": func([]byte) []byte { return []byte(`{"x":[` + strings.Repeat(`[],`, 33_000_000) + `[]]}`) },
		"a duplicate key": func(b []byte) []byte {
			return append(bytes.TrimSuffix(bytes.TrimSpace(b), []byte("}")), []byte(`,"process":{"args":["sh"],"cwd":"relative"}}`)...)
		},
		"nothing":         func([]byte) []byte { return nil },
		"a list of lists": func([]byte) []byte { return []byte(strings.Repeat("[", 5_000_000)) },
	} {
		t.Run("in the bundle: "+name, func(t *testing.T) { h.behindTheBack(t, text) })
	}
	h.mustRun(t, sh("true"))
}

// behindTheBack changes a created container's config.json into something huge and asks its shim to create another container
// from that bundle, as a client of the shim's own socket can.
func (h *host) behindTheBack(t *testing.T, change func([]byte) []byte) {
	t.Helper()
	id := h.start(t, sh("sleep 1000"))
	shims, err := h.Pids(shimBinary, "-id", id)
	if err != nil || len(shims) != 1 {
		t.Fatal(shims, err)
	}
	bundles, err := filepath.Glob(filepath.Join(h.Dir, "state", "io.containerd.runtime.v2.task", "*", id))
	if err != nil || len(bundles) != 1 {
		t.Fatal(bundles, err)
	}
	original, err := os.ReadFile(filepath.Join(bundles[0], "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	hostile := filepath.Join(h.Dir, "hostile-"+id)
	if err := os.MkdirAll(filepath.Join(hostile, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(hostile)
	text := change(original)
	if err := os.WriteFile(filepath.Join(hostile, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	before, began := resident(t, shims[0]), time.Now()
	ctx, cancel := context.WithTimeout(h.context(t), time.Minute)
	defer cancel()
	err = h.createThroughShim(ctx, t, id, hostile)
	took := time.Since(began)
	after := resident(t, shims[0])
	t.Logf("%d bytes: %v in %v, shim %d MiB before and %d MiB after", len(text), brief(err), took, before>>20, after>>20)
	if err == nil || !strings.Contains(err.Error(), "config.json") && !strings.Contains(err.Error(), "Cwd must be") {
		t.Errorf("not refused by name: %v", brief(err))
	}
	if took > 20*time.Second || after > before+64<<20 {
		t.Errorf("took %v, the shim grew from %d to %d bytes", took, before, after)
	}
	for _, pattern := range []string{h.state("c", "*", id+"-2"), filepath.Join(hostile, "*forefend*"), filepath.Join(hostile, ".*")} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if r := h.exec(id, "echo", "alive"); r.Stdout != "alive\n" {
		t.Errorf("the pod suffered: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
}

// createThroughShim asks the shim of container id to create another one from a bundle.
func (h *host) createThroughShim(ctx context.Context, t *testing.T, id, bundle string) error {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(h.Dir, "state", "io.containerd.runtime.v2.task", "*", id, "bootstrap.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	body, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var bootstrap struct{ Address string }
	if err := json.Unmarshal(body, &bootstrap); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(bootstrap.Address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	_, err = taskv3.NewTTRPCTaskClient(c).Create(ctx, &taskv3.CreateTaskRequest{ID: id + "-2", Bundle: bundle})
	return err
}
