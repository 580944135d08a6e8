package record

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

func TestStart(t *testing.T) {
	own, err := Start(os.Getpid())
	if err != nil || own == 0 {
		t.Fatalf("own start time: %d, %v", own, err)
	}
	again, err := Start(os.Getpid())
	if err != nil || again != own {
		t.Errorf("own start time changed from %d to %d, %v", own, again, err)
	}
	for _, pid := range []int{0, -1, 1 << 30} {
		if _, err := Start(pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("start time of process %d: %v", pid, err)
		}
	}
}

func TestAlive(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := false
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if !waited {
			_ = cmd.Wait()
		}
	})
	start, err := Start(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	r := Record{Boot: bootID(), ShimPID: cmd.Process.Pid, ShimStart: start, PID: cmd.Process.Pid, PIDStart: start}
	if !r.Alive() || !r.Running() {
		t.Error("a running process counts as gone")
	}
	for name, change := range map[string]func(*Record){
		"number reused":  func(r *Record) { r.ShimStart++; r.PIDStart++ },
		"another boot":   func(r *Record) { r.Boot = "another" },
		"never recorded": func(r *Record) { r.ShimPID, r.PID = 0, 0 },
	} {
		other := r
		change(&other)
		if other.Alive() || other.Running() {
			t.Errorf("%s: counts as running", name)
		}
	}
	stdin.Close()
	waitForZombie(t, cmd.Process.Pid)
	if r.Alive() {
		t.Error("a zombie counts as running")
	}
	waited = true
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if r.Alive() {
		t.Error("a process that is gone counts as running")
	}
}

// waitForZombie blocks until the child has ended, without reaping it.
func waitForZombie(t *testing.T, pid int) {
	t.Helper()
	if err := waitNoReap(pid); err != nil {
		t.Fatal(err)
	}
	if state, _, err := readStat(pid); err != nil || state != 'Z' {
		t.Fatalf("child is in state %c, %v", state, err)
	}
}

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20\n"
	for in, want := range map[string]uint64{
		"7 (cat)" + tail:           777,
		"7 (a) Z 1 2 (b c)" + tail: 777,
		"7 (\n) 1 2 3)" + tail:     777,
		"":                         0,
		"7 (cat":                   0,
		"7 (cat) S 1 2":            0,
		"7 (cat) SS 1 2" + tail:    0,
		"7 (cat) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x": 0,
	} {
		state, start, err := parseStat([]byte(in))
		if start != want || (err == nil) != (want != 0) || (err == nil && state != 'S') {
			t.Errorf("parseStat(%q) = %c, %d, %v; want %d", in, state, start, err, want)
		}
	}
}
