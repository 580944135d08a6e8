package meter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"forefend.dev/forefend/netns/gateway"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

func fewStanding() Standing {
	return Standing{
		Containers: map[orchestrator.Standing]int{{Mode: "adaptive", Sealed: true, Availability: api.ByDaemon}: 3}, Workloads: 5, Runs: 7,
		StoreBytes: map[string]uint64{"runs": 1000}, StoreRecords: map[string]uint64{"runs": 10}, SetAside: 1, Spooled: 2, Queue: 4, Degraded: 6,
	}
}

// driven is a Meter that has counted one of everything.
func driven() *Meter {
	m := New("v1", fewStanding)
	m.Decided(orchestrator.Outcome{Operation: orchestrator.OperationAdmit, Mode: "adaptive", Availability: api.ByDaemon, Took: time.Millisecond,
		Sources: []api.Source{{Name: "history", Status: api.SourceOK, Took: time.Microsecond}}})
	m.Decided(orchestrator.Outcome{Operation: orchestrator.OperationUpdate, Err: errors.New("refused")})
	m.Observed(2, 3, time.Millisecond, nil)
	m.Observed(1, 9, time.Millisecond, errors.New("disk full"))
	m.Published(api.EventExited)
	m.JournalLost()
	return m
}

// scrape reads the figures as Prometheus does.
func scrape(t *testing.T, client *http.Client, url string) map[string]*dto.MetricFamily {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, resp.Status)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// serve answers scrapes until the test ends.
func serve(t *testing.T, m *Figures, network, address string) net.Addr {
	t.Helper()
	l, err := Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() {
		if err := m.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		served.Wait()
	})
	return l.Addr()
}

func overUnix(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

// socketPath is short enough for an address.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ffm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "metrics.sock")
}

func value(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	f := families[name]
	if f == nil {
		return -1
	}
	sum, found := 0.0, false
	for _, m := range f.Metric {
		var have []string
		for _, l := range m.Label {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		if slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(have, l) }) {
			continue
		}
		found = true
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	if !found {
		return -1
	}
	return sum
}

func TestScrapeOverSocket(t *testing.T) {
	path := socketPath(t)
	serve(t, driven().Figures, "unix", path)
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	f := scrape(t, overUnix(path), "http://forefend/metrics")
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"forefend_build_info", []string{"version=v1"}, 1},
		{"forefend_admit_duration_seconds", nil, 1},
		{"forefend_observe_duration_seconds", nil, 2},
		{"forefend_source_duration_seconds", []string{"source=history", "status=ok"}, 1},
		{"forefend_decisions_total", []string{"operation=admit", "mode=adaptive", "sealed=false", "availability=daemon"}, 1},
		{"forefend_decisions_total", nil, 1},
		{"forefend_decisions_refused_total", []string{"operation=update"}, 1},
		{"forefend_observations_total", []string{"result=kept"}, 2},
		{"forefend_observations_total", []string{"result=failed"}, 1},
		{"forefend_events_total", []string{"kind=exited"}, 1},
		{"forefend_lost_events_total", []string{"origin=shim"}, 3}, // those of the refused report come again
		{"forefend_lost_events_total", []string{"origin=journal"}, 1},
		{"forefend_running_containers", []string{"mode=adaptive", "sealed=true", "availability=daemon"}, 3},
		{"forefend_running_containers", nil, 3},
		{"forefend_workloads_known", nil, 5},
		{"forefend_runs_total", nil, 7},
		{"forefend_store_bytes", []string{"stream=runs"}, 1000},
		{"forefend_store_records", []string{"stream=runs"}, 10},
		{"forefend_set_aside_records", nil, 1},
		{"forefend_spool_files", nil, 2},
		{"forefend_journal_queue_entries", nil, 4},
		{"forefend_degraded_features", nil, 6},
	} {
		if got := value(f, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	if value(f, "go_goroutines") < 1 || value(f, "process_open_fds") < 1 {
		t.Error("the process and the Go runtime are not measured")
	}
}

func TestScrapeOverLoopback(t *testing.T) {
	address := serve(t, driven().Figures, "tcp", "127.0.0.1:0").String()
	f := scrape(t, http.DefaultClient, "http://"+address+"/metrics")
	if value(f, "forefend_build_info") != 1 {
		t.Errorf("%v", f)
	}
	resp, err := http.Get("http://" + address + "/debug/pprof/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("something else is served: %s", resp.Status)
	}
}

// Containers, images and users may be as many as they want: they add no series.
func TestFloodAddsNoSeries(t *testing.T) {
	m := New("v1", func() Standing {
		s := fewStanding()
		for i := range 1000 {
			s.Containers[orchestrator.Standing{Mode: fmt.Sprint("m", i), Availability: api.Availability(fmt.Sprint("a", i))}] = 1
		}
		return s
	})
	flood := func() {
		for i := range 20000 {
			text := fmt.Sprint("x", i)
			m.Decided(orchestrator.Outcome{Operation: text, Mode: text, Availability: api.Availability(text), Sealed: i%2 == 0})
			m.Decided(orchestrator.Outcome{Operation: text, Err: errors.New(text)})
			m.Published(text)
			m.Observed(i, uint64(i), time.Duration(i), errors.New(text))
			m.Decided(orchestrator.Outcome{Operation: orchestrator.OperationAdmit, Sources: []api.Source{{Name: text, Status: text, Took: time.Duration(i)}}})
			for _, operation := range operations {
				m.Decided(orchestrator.Outcome{Operation: operation, Mode: modes[i%3], Availability: api.Availability(availabilities[i%4]), Sealed: i%2 == 0})
			}
		}
	}
	flood()
	first, err := testutil.GatherAndCount(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	flood()
	again, err := testutil.GatherAndCount(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	// Everything a label can be, times one another, is what there can ever be.
	if first != again || again > 800 {
		t.Errorf("%d series, then %d", first, again)
	}
	t.Logf("%d series", again)
}

func TestNamesFollowPrometheus(t *testing.T) {
	for _, f := range []*Figures{driven().Figures, NewGateway("v1", fewGateway)} {
		problems, err := testutil.GatherAndLint(f.registry)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, "forefend_") {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	}
}

var row = regexp.MustCompile("(?m)^\\| `(forefend_[a-z_]+)` \\| ([a-z]+) \\| ([a-z]+|–) \\| ([^|]+) \\| ([^|]+) \\|$")

// docs/metrics.md is a promise.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	families, err := driven().registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ofGateway, err := NewGateway("v1", fewGateway).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families = append(families, slices.DeleteFunc(ofGateway, func(f *dto.MetricFamily) bool { return f.GetName() == "forefend_build_info" })...)
	documented := make(map[string][]string)
	for _, r := range row.FindAllStringSubmatch(string(text), -1) {
		documented[r[1]] = r
	}
	for _, f := range families {
		name := f.GetName()
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		r, ok := documented[name]
		delete(documented, name)
		if !ok {
			t.Errorf("%s is not in docs/metrics.md", name)
			continue
		}
		if kind := strings.ToLower(f.GetType().String()); r[2] != kind {
			t.Errorf("%s is a %s, documented as %s", name, kind, r[2])
		}
		if unit := unitOf(name); r[3] != unit {
			t.Errorf("%s is in %s, documented as %s", name, unit, r[3])
		}
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		var promised []string
		if r[4] != "none" {
			promised = strings.Split(r[4], ", ")
		}
		slices.Sort(labels)
		slices.Sort(promised)
		if !slices.Equal(labels, promised) {
			t.Errorf("%s has labels %v, documented as %v", name, labels, promised)
		}
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
	for name := range documented {
		t.Errorf("%s is documented and not registered", name)
	}
	// The values of the labels are promised, too.
	var reasons, causes []string
	for _, why := range gateway.Reasons {
		reasons = append(reasons, string(why))
	}
	for _, cause := range nft.GatewayCauses {
		causes = append(causes, string(cause))
	}
	for name, values := range map[string][]string{
		"reason": reasons, "cause` of packets": causes, "request": gateway.Requests[:len(gateway.Requests)-1], "outcome` of requests": gateway.Outcomes, "operation": operations, "mode": modes, "availability": availabilities, "source": sources, "status": statuses, "kind": kinds,
	} {
		if !strings.Contains(name, "`") {
			name += "`"
		}
		line := regexp.MustCompile("(?m)^\\| `" + name + " \\| .*$").FindString(string(text))
		for _, v := range values {
			if !regexp.MustCompile(`[ ,]` + v + `[ ,:]`).MatchString(line) {
				t.Errorf("the value %s of label %s is not documented in %q", v, name, line)
			}
		}
	}
}

// unitOf reads the unit from a name, as Prometheus's conventions have it.
func unitOf(name string) string {
	for _, unit := range []string{"seconds", "bytes"} {
		if strings.HasSuffix(strings.TrimSuffix(name, "_total"), "_"+unit) {
			return unit
		}
	}
	return "–"
}

func TestListenTakesOnlyWhatIsFree(t *testing.T) {
	path := socketPath(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix", path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in its place: %v", err)
	}
	if body, err := os.ReadFile(path); err != nil || string(body) != "precious" {
		t.Errorf("%q %v", body, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	first, err := Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix", path); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("somebody listens: %v", err)
	}
	// A daemon that was killed leaves its socket.
	if err := first.(named).Listener.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if _, err := Listen("unix", filepath.Join(path, "none", "m.sock")); err == nil {
		t.Error("a directory that is not there")
	}
	taken, err := Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := Listen("tcp", taken.Addr().String()); err == nil {
		t.Error("a port that is taken")
	}
}
