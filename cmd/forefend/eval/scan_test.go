package eval

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
)

func TestReadTruths(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.json", `{"app": {"Name": "web", "Root": "$ROOT", "Cmd": ["/usr/sbin/web", "-c", "$ROOT/etc/web.conf"]}, "phases": [{"Counts": {"poll": 1}}]}`)
	write("a.truth", "write read\nread\n")
	write("b.json", `{"app": {"Cmd": ["/tmp/root/bin/b"]}, "phases": [{"Counts": {"read": 2}}, {"Counts": {"open": 1}}]}`)
	got, err := readTruths(dir, "/tmp/root/")
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if a := got[0]; a.name != "web" || !slices.Equal(a.command, []string{"/usr/sbin/web", "-c", "/etc/web.conf"}) || !slices.Equal(a.calls, []string{"read", "write"}) {
		t.Errorf("%+v", a)
	}
	if b := got[1]; b.name != "b" || !slices.Equal(b.command, []string{"/bin/b"}) || !slices.Equal(b.calls, []string{"open", "read"}) {
		t.Errorf("%+v", b)
	}
	write("c.json", `{"app": {}}`)
	if _, err := readTruths(dir, "/"); err == nil || !strings.Contains(err.Error(), "app.Cmd") {
		t.Errorf("no command: %v", err)
	}
	if _, err := readTruths(t.TempDir(), "/"); err == nil {
		t.Error("an empty directory: no error")
	}
}

// The decision lets the hot calls that are predicted pass, and those that runc cannot do without; no others.
func TestNativeCalls(t *testing.T) {
	few, err := nativeCalls([]string{"x"}, evidence.Scan{Version: evidence.ScanVersion, Syscalls: []string{"poll", "mkdir", "execve", "ptrace"}})
	if err != nil {
		t.Fatal(err)
	}
	more, err := nativeCalls([]string{"x"}, evidence.Scan{Version: evidence.ScanVersion, Syscalls: []string{"poll", "select", "mkdir", "execve", "ptrace"}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := nativeCalls([]string{"x"}, evidence.Scan{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"poll", "write", "futex"} {
		if !slices.Contains(few, name) {
			t.Errorf("%s is not native", name)
		}
	}
	for _, name := range []string{"select", "mkdir", "execve", "ptrace"} {
		if slices.Contains(few, name) {
			t.Errorf("%s is native", name)
		}
	}
	if len(more) != len(few)+1 || len(all) < len(more)+20 {
		t.Errorf("native: %d, with one more %d, without a scan %d", len(few), len(more), len(all))
	}
}

// A scanner that says what it is told to say.
func TestScanEvaluation(t *testing.T) {
	dir := t.TempDir()
	scanner := filepath.Join(dir, "scanner")
	script := "#!/bin/sh\necho '{\"version\":1,\"command\":[\"web\"],\"arch\":\"amd64\",\"syscalls\":[\"poll\",\"read\"],\"unknown\":[{\"where\":\"x\",\"why\":\"y\"}]}'\n"
	if err := os.WriteFile(scanner, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"web.json": `{"app":{"Name":"web","Cmd":["web"]}}`, "web.truth": "read write"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := scanEvaluation{rootfs: dir, binary: scanner}
	r, err := e.run(t.Context(), dir)
	if err != nil || len(r.Programs) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	f := r.Programs[0]
	if f.Error != "" {
		t.Fatal("the scanner cannot be run: " + f.Error)
	}
	if f.Name != "web" || f.Predicted != 2 || !slices.Equal(f.Missed, []string{"write"}) || !slices.Equal(f.Extra, []string{"poll"}) || f.Unknown != 1 || f.Seconds <= 0 {
		t.Errorf("%+v", f)
	}
	var out bytes.Buffer
	if err := (format{json: true}).print(&out, r, r.text); err != nil {
		t.Fatal(err)
	}
	var decoded struct {
		Programs []struct {
			Name              string
			Missed            []string
			Predicted, Native int
			Seconds           float64
		}
	}
	if err := json.Unmarshal(out.Bytes(), &decoded); err != nil || len(decoded.Programs) != 1 || decoded.Programs[0].Predicted != 2 || decoded.Programs[0].Native == 0 {
		t.Errorf("%s: %v", out.String(), err)
	}
}
