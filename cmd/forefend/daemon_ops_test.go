package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// says appends to the site's configuration, for daemons started from now on.
func (s *site) says(t *testing.T, toml string) {
	t.Helper()
	text, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path, append(text, toml...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// scrape reads the daemon's figures as text.
func (s *site) scrape(t *testing.T) string {
	t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(s.State, "metrics.sock"))
	}}}
	resp, err := client.Get("http://forefend/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	return string(body)
}

func TestDaemonServesMetrics(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	c := s.client(t)
	for i := range 3 {
		life(t, c, fmt.Sprint("m", i))
	}
	var text string
	for _, want := range []string{
		`(?m)^forefend_build_info\{.*version="unknown"\} 1$`,
		`(?m)^forefend_decisions_total\{availability="daemon",mode="adaptive",operation="admit",sealed="false"\} 3$`,
		`(?m)^forefend_admit_duration_seconds_count 3$`,
		`(?m)^forefend_source_duration_seconds_count\{source="history",status="(ok|absent)"\} [123]$`,
		`(?m)^forefend_source_duration_seconds_count\{source="image",status="absent"\} 3$`,
		`(?m)^forefend_observations_total\{result="kept"\} 3$`,
		`(?m)^forefend_events_total\{kind="exited"\} 3$`,
		`(?m)^forefend_runs_total 3$`,
		`(?m)^forefend_workloads_known [1-9]`,
		`(?m)^forefend_store_records\{stream="runs"\} 3$`,
		`(?m)^forefend_store_bytes\{stream="decisions"\} [1-9]`,
		`(?m)^process_resident_memory_bytes [1-9]`,
	} {
		// What is kept is counted once it is on disk, after the answer.
		for end := time.Now().Add(time.Minute); !regexp.MustCompile(want).MatchString(text); time.Sleep(20 * time.Millisecond) {
			if text = s.scrape(t); time.Now().After(end) {
				t.Errorf("no %s", want)
				break
			}
		}
	}
	const most = 60 << 20 // bytes; a busy machine makes for more scrapes than one, whose garbage goes again
	st := statusOf(t, c)
	for end := time.Now().Add(time.Minute); st.RSS > most && time.Now().Before(end); st = statusOf(t, c) {
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("RSS after three containers and a scrape: %.1f MiB", float64(st.RSS)/(1<<20))
	if st.RSS > most {
		t.Errorf("RSS is %d bytes", st.RSS)
	}
	s.stop(t)
	if left, _ := filepath.Glob(filepath.Join(s.State, "metrics.sock*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	s.says(t, "[metrics]\nlisten = \"off\"\n")
	s.detach(t)
	if left, _ := filepath.Glob(filepath.Join(s.State, "metrics.sock*")); len(left) > 0 {
		t.Errorf("off, and %v is there", left)
	}
}

// Metrics are optional: a place that is taken keeps no container from starting.
func TestDaemonWithoutItsMetrics(t *testing.T) {
	s := newSite(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.says(t, fmt.Sprintf("[metrics]\nlisten = %q\n", taken.Addr()))
	s.detach(t)
	st := statusOf(t, s.client(t))
	if degraded := strings.Join(st.Degraded, "\n"); !strings.Contains(degraded, "no metrics: ") || !strings.Contains(degraded, taken.Addr().String()) {
		t.Errorf("degraded: %q", st.Degraded)
	}
}

// decisionLines are the log's lines about decisions, as JSON.
func (s *site) decisionLines(t *testing.T) (lines []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(s.Log())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("not JSON: %q", line)
		}
		if _, ok := fields["id"]; ok {
			lines = append(lines, fields)
		}
	}
	return lines
}

func TestDaemonLogsOneLineForEachDecision(t *testing.T) {
	s := newSite(t)
	s.says(t, "log_format = \"json\"\n")
	s.detach(t)
	c := s.client(t)
	life(t, c, "one")
	id := workload.ID{Namespace: "test", Container: "two"}
	facts := workload.Facts{ID: id, Run: "two-1", Group: "test", Args: []string{"/usr/bin/server", "--password=hunter2"},
		Annotations: map[string]string{"token": "hunter2"}, Image: workload.Image{Name: "docker.io/library/test:1", Repository: "docker.io/library/test"}}
	d, err := c.Admit(t.Context(), api.AdmitRequest{Version: api.Version, Facts: facts, ListenerPath: "/run/x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Admit(t.Context(), api.AdmitRequest{Version: api.Version, Facts: facts, ListenerPath: "/run/x", DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Update(t.Context(), api.UpdateRequest{Version: api.Version, ID: id, Before: d}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Update(t.Context(), api.UpdateRequest{Version: api.Version, ID: id, Before: d, Refused: true}); err != nil {
		t.Fatal(err)
	}
	facts.ID.Container, facts.Annotations = "three", map[string]string{"forefend.dev/memory": "lots"}
	if _, err := c.Admit(t.Context(), api.AdmitRequest{Version: api.Version, Facts: facts, ListenerPath: "/run/x"}); err == nil {
		t.Fatal("a malformed annotation is accepted")
	}
	var got []string
	for _, l := range s.decisionLines(t) {
		got = append(got, fmt.Sprintf("%v|%v|%v|%v|%v|%v|%v|%v", l["level"], l["msg"], l["id"], l["workload"], l["mode"], l["sealed"], l["availability"], l["late"]))
		if took, err := time.ParseDuration(fmt.Sprint(l["took"])); err != nil || took <= 0 {
			t.Errorf("took %v: %v", l["took"], err)
		}
		if l["run"] == "" || l["error"] == nil && l["revision"] == nil {
			t.Errorf("%v", l)
		}
	}
	want := []string{
		"info|forefend: admit|test/one|server|adaptive|false|daemon|none",
		"info|forefend: admit|test/two|test -- server|adaptive|false|daemon|none",
		"info|forefend: update|test/two|test -- server|adaptive|false|daemon|<nil>",
		"info|forefend: revert|test/two|test -- server|adaptive|false|daemon|<nil>",
		"warning|forefend: admit refused|test/three|test -- server|<nil>|<nil>|<nil>|<nil>",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if text, err := os.ReadFile(s.Log()); err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("a secret in the log: %v\n%s", err, text)
	}
}

func TestDaemonLogLevel(t *testing.T) {
	s := newSite(t)
	s.says(t, "log_level = \"error\"\n")
	s.detach(t)
	life(t, s.client(t), "one")
	if text, err := os.ReadFile(s.Log()); err != nil || len(text) > 0 {
		t.Errorf("%v: %s", err, text)
	}
}

// A log that grows beyond its bound is begun anew while the daemon runs, and what is written by way of the old descriptors
// goes to the new one.
func TestLogIsTurned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.log")
	if os.Getenv("FOREFEND_TEST_TURN") != "" {
		if err := turnLog(os.Getenv("FOREFEND_TEST_TURN"), 10); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(os.Stderr, "new line")
		return
	}
	for _, c := range []struct{ before, old, now string }{
		{"a line of more than ten bytes\n", "a line of more than ten bytes\n", "new line\n"},
		{"short\n", "", "short\nnew line\n"},
	} {
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path + ".1")
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		p, err := os.StartProcess(self, []string{self, "-test.run=^TestLogIsTurned$"}, &os.ProcAttr{
			Env: append(os.Environ(), "FOREFEND_TEST_TURN="+path), Files: []*os.File{nil, nil, f}})
		if err != nil {
			t.Fatal(err)
		}
		state, err := p.Wait()
		if err != nil || !state.Success() {
			t.Fatal(state, err)
		}
		_ = f.Close()
		old, _ := os.ReadFile(path + ".1")
		now, err := os.ReadFile(path)
		if err != nil || string(old) != c.old || !strings.HasPrefix(string(now), c.now) { // PASS follows
			t.Errorf("old %q, now %q, %v", old, now, err)
		}
	}
	if err := turnLog(path, 0); err != nil { // ours goes elsewhere
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Size == 0 {
		t.Errorf("somebody else's log was turned: %v", err)
	}
}
