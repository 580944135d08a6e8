package cgroup

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// v1 and v2 are files as real kernels show them (6.18 v1, 6.12 v2), shortened.
var (
	filesV1 = map[string]string{
		"memory/memory.stat":                              "cache 900\ninactive_file 1\ntotal_cache 900\ntotal_inactive_file 300\ntotal_active_file 7\n",
		"memory/memory.usage_in_bytes":                    "1300\n",
		"memory/memory.max_usage_in_bytes":                "5000\n",
		"memory/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		"memory/memory.failcnt":                           "17\n",
		"memory/memory.limit_in_bytes":                    "1048576\n",
		"memory/memory.soft_limit_in_bytes":               "9223372036854771712\n",
		"cpu/cpu.stat":                                    "nr_periods 4\nnr_throttled 3\nthrottled_time 250000000\nnr_bursts 0\n",
		"cpu/cpu.cfs_quota_us":                            "150000\n",
		"cpu/cpu.cfs_period_us":                           "100000\n",
		"cpuacct/cpuacct.usage":                           "1500000000\n",
		"pids/pids.current":                               "3\n",
		"pids/pids.peak":                                  "9\n",
		"pids/pids.max":                                   "64\n",
		"blkio/blkio.throttle.io_service_bytes":           "8:0 Read 1\nTotal 1\n",
		"blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n8:0 Total 12288\n8:16 Read 1\n8:16 Write 2\nTotal 12291\n",
		"unified/cpu.stat":                                "usage_usec 1\n",
		"unified/cgroup.procs":                            "",
	}
	filesV2 = map[string]string{
		"memory.stat":    "anon 700\nfile 900\nactive_file 7\ninactive_file 300\n",
		"memory.current": "1300\n",
		"memory.peak":    "5000\n",
		"memory.events":  "low 0\nhigh 5\nmax 17\noom 3\noom_kill 2\noom_group_kill 0\n",
		"memory.max":     "1048576\n",
		"memory.high":    "max\n",
		"cpu.stat":       "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\nnr_throttled 3\nthrottled_usec 250000\n",
		"cpu.max":        "150000 100000\n",
		"pids.current":   "3\n",
		"pids.peak":      "9\n",
		"pids.max":       "64\n",
		"io.stat":        "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n253:0\n",
	}
)

func fixture(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func groupV1(dir string) Group {
	g := Group{Paths: map[string]string{}, Unified: filepath.Join(dir, "unified")}
	for _, c := range []string{"memory", "cpu", "cpuacct", "pids", "blkio"} {
		g.Paths[c] = filepath.Join(dir, c)
	}
	return g
}

func TestSampleOfBothVersions(t *testing.T) {
	want := Sample{Memory: 1000, Cache: 300, Need: 993, lists: 307, MemoryPeak: 5000, CPU: 1500 * time.Millisecond, PIDs: 3, PIDsPeak: 9,
		Throttled: 250 * time.Millisecond, OOMKills: 2, LimitHits: 17, ReadBytes: 4097, WriteBytes: 8194}
	for name, g := range map[string]Group{
		"v1 hybrid": groupV1(fixture(t, filesV1)),
		"v2":        {Unified: fixture(t, filesV2)},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := g.Sampler()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			got, err := s.Sample()
			if err != nil {
				t.Fatal(err)
			}
			if got.Time.IsZero() {
				t.Error("sample has no time")
			}
			got.Time = time.Time{}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			limits, err := g.Limits()
			if wantLimits := (Limits{Memory: 1 << 20, CPUs: 1.5, PIDs: 64}); err != nil || limits != wantLimits {
				t.Errorf("limits %+v, %v; want %+v", limits, err, wantLimits)
			}
		})
	}
}

func TestLimitsThatAreNone(t *testing.T) {
	dir := fixture(t, map[string]string{
		"v2/memory.max": "max\n", "v2/memory.high": "4096\n", "v2/cpu.max": "max 100000\n", "v2/pids.max": "max\n",
		"v1/memory.limit_in_bytes": "9223372036854771712\n", "v1/memory.soft_limit_in_bytes": "4096\n",
		"v1/cpu.cfs_quota_us": "-1\n", "v1/cpu.cfs_period_us": "100000\n", "v1/pids.max": "max\n",
	})
	v1 := filepath.Join(dir, "v1")
	for _, g := range []Group{
		{Unified: filepath.Join(dir, "v2")},
		{Paths: map[string]string{"memory": v1, "cpu": v1, "pids": v1}},
	} {
		if got, err := g.Limits(); err != nil || got != (Limits{MemorySoft: 4096}) {
			t.Errorf("%v: %+v, %v; want only MemorySoft 4096", g.Map(), got, err)
		}
	}
}

func TestMissingFilesAreZeroAndMissingGroupsAreErrors(t *testing.T) {
	g := Group{Unified: fixture(t, map[string]string{"pids.current": "5\n"})}
	s, err := g.Sampler()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Sample()
	got.Time = time.Time{}
	if err != nil || got != (Sample{PIDs: 5}) {
		t.Errorf("%+v, %v; want PIDs 5 alone", got, err)
	}
	gone := Group{Unified: filepath.Join(t.TempDir(), "gone")}
	if _, err := gone.Sampler(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sampler of a group that is gone: %v", err)
	}
	if _, err := gone.Limits(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("limits of a group that is gone: %v", err)
	}
	if _, err := (Group{}).Sampler(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sampler of no group: %v", err)
	}
}

func TestUnreadableFilesAreErrors(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"memory.max", "memory.current"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil { // reads as EISDIR
			t.Fatal(err)
		}
	}
	g := Group{Unified: dir}
	if _, err := g.Limits(); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("limits: %v, want EISDIR", err)
	}
	s, err := g.Sampler()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Sample(); err == nil {
		t.Error("sample: no error, want EISDIR")
	}
}

func TestLongFilesAreReadWhole(t *testing.T) {
	long := strings.Repeat("8:0 rbytes=1 wbytes=1\n", 3000)
	s, err := Group{Unified: fixture(t, map[string]string{"io.stat": long})}.Sampler()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := s.Sample(); err != nil || got.ReadBytes != 3000 {
		t.Errorf("ReadBytes %d, %v; want 3000", got.ReadBytes, err)
	}
}

func TestNumber(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "\n": 0, "0": 0, "42\n": 42, "max\n": math.MaxInt64, "-1\n": 0, "12x": 12,
		"9223372036854775807": math.MaxInt64, "9223372036854775808": math.MaxInt64, "18446744073709551615": math.MaxInt64,
	} {
		if got := number([]byte(in)); got != want {
			t.Errorf("number(%q) = %d, want %d", in, got, want)
		}
	}
}

func FuzzParsers(f *testing.F) {
	for _, files := range []map[string]string{filesV1, filesV2} {
		for _, content := range files {
			f.Add([]byte(content))
		}
	}
	f.Add([]byte("8:0 rbytes=9223372036854775807 rbytes=9223372036854775807"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Sample
		for _, src := range sources {
			for _, parse := range []func([]byte, *Sample){src.parse1, src.parse2} {
				if parse != nil {
					parse(data, &s)
				}
			}
		}
		for _, n := range []int64{s.Memory, s.Cache, s.MemoryPeak, int64(s.CPU), s.PIDs, s.OOMKills, s.ReadBytes, s.WriteBytes, int64(s.Throttled)} {
			if n < 0 {
				t.Fatalf("negative figure in %+v", s)
			}
		}
	})
}

func TestFloor(t *testing.T) {
	const stat = "anon 40\nfile 60\nactive_file 20\ninactive_file 10\nslab_reclaimable 5\nslab_unreclaimable 3\n"
	for _, c := range []struct {
		name     string
		files    map[string][]byte
		swapFree int64
		want     int64
	}{
		{"no swap in the kernel", map[string][]byte{"memory.current": []byte("100\n")}, 50, 65},
		{"no swap space", map[string][]byte{"memory.current": []byte("100\n"), "memory.swap.max": []byte("max\n"), "memory.swap.current": []byte("0\n")}, 0, 65},
		{"swap space", map[string][]byte{"memory.current": []byte("100\n"), "memory.swap.max": []byte("max\n"), "memory.swap.current": []byte("0\n")}, 50, 15},
		{"swap limited", map[string][]byte{"memory.current": []byte("100\n"), "memory.swap.max": []byte("30\n"), "memory.swap.current": []byte("10\n")}, 50, 45},
		{"swap used up", map[string][]byte{"memory.current": []byte("100\n"), "memory.swap.max": []byte("10\n"), "memory.swap.current": []byte("12\n")}, 50, 65},
		{"all reclaimable", map[string][]byte{"memory.current": []byte("30\n")}, 0, 0},
	} {
		c.files["memory.stat"] = []byte(stat)
		if got := floor(c.files, c.swapFree); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if got := floor(map[string][]byte{"memory.current": []byte("100")}, 0); got != 100 {
		t.Errorf("without statistics: %d", got)
	}
}
