package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// TestUnits runs daemon and tunneld as the services that are installed, with all that their units take away from them, and has
// them do what needs most of it: analyse an image, put threat feeds into the kernel, lead a container's requests.
func TestUnits(t *testing.T) {
	root.Test(t)
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("systemd is not this machine's init: make test-vm runs this in a machine where it is")
	}
	feeds, rules := t.TempDir(), t.TempDir()
	write(t, filepath.Join(feeds, "listed.netset"), "192.0.2.0/24\n")
	write(t, filepath.Join(rules, "all.toml"), "[[rule]]\nname = \"all\"\nwhen = \"true\"\ntunnel = { encryption = \"none\" }\n")
	h := newHost(t, harness.WithConfig(patient+fmt.Sprintf(`
[threats]
feeds = [%q]
[scan]
first_scan_wait = "30s"
[egress]
rules = %q
decide_within = "10s"
[[tunnel]]
name = "uplink"
kind = "direct"
`, feeds, rules)))
	// An emulated machine takes longer to load them than a start may take.
	if out, err := exec.Command("modprobe", "-a", "tun", "veth", "nft_socket", "nft_redir", "nft_ct", "nft_reject_inet", "nft_fib_inet", "nft_chain_nat").CombinedOutput(); err != nil {
		t.Logf("modprobe: %v: %s", err, out)
	}
	for _, unit := range []string{"forefend.service", "forefend-tunneld.service"} {
		h.installUnit(t, unit)
	}
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the services said:\n%s", journal())
		}
		_ = exec.Command("systemctl", "stop", "forefend.service", "forefend-tunneld.service").Run()
	})
	systemctl(t, "start", "forefend.service")
	daemon, tunneld := mainPID(t, "forefend.service"), mainPID(t, "forefend-tunneld.service")

	o := newOutside(t)
	reached := web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	if got := h.fetch(id, "198.51.100.1"); got != "direct" || reached.Load() == 0 {
		t.Errorf("a request by the tunnel of a service: %q", got)
	}
	h.mustRun(t, sh("true")) // of an image that is known by now
	eventually(t, "the image analysed by the service", func() bool { return strings.Contains(journal(), "forefend: scanned") })
	for _, trouble := range []string{"EPERM", "ignoring", "operation not permitted", "no gates", "not in force"} {
		if strings.Contains(journal(), trouble) {
			t.Errorf("a service is in trouble: %s", trouble)
		}
	}
	if doctor := h.Forefend("doctor"); strings.Contains(doctor.Stdout, "threat feeds are not enforced") {
		t.Errorf("doctor:\n%s", doctor.Stdout)
	}

	// A killed service is back, as another process; the tunnels did not notice.
	systemctl(t, "kill", "--signal=KILL", "--kill-whom=main", "forefend.service")
	eventually(t, "another daemon", func() bool { pid := mainPID(t, "forefend.service"); return pid != "0" && pid != daemon })
	if pid := mainPID(t, "forefend-tunneld.service"); pid != tunneld {
		t.Errorf("tunneld was %s and is %s", tunneld, pid)
	}
	eventually(t, "requests under the other daemon", func() bool { return h.fetch(id, "198.51.100.1") == "direct" })
	systemctl(t, "kill", "--signal=KILL", "--kill-whom=main", "forefend-tunneld.service")
	eventually(t, "another tunneld", func() bool { pid := mainPID(t, "forefend-tunneld.service"); return pid != "0" && pid != tunneld })
	eventually(t, "requests by the other tunneld", func() bool { return h.fetch(id, "198.51.100.1") == "direct" })
	h.remove(id)
}

// installUnit puts a unit where systemd finds it until the machine stops, as `make install` would, with this environment's binaries and configuration.
func (h *host) installUnit(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile("../../packaging/systemd/" + name)
	if err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	dir := "/run/systemd/system/"
	write(t, dir+name, strings.NewReplacer("@bindir@", bin, "@docdir@", bin).Replace(string(text)))
	if err := os.MkdirAll(dir+name+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+name+".d/test.conf", "[Service]\nEnvironment=FOREFEND_CONFIG="+h.ConfigPath+"\n")
}

func systemctl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		t.Fatalf("systemctl %q: %v\n%s", args, err, out)
	}
}

func mainPID(t *testing.T, unit string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "--value", "--property=MainPID", unit).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// journal is what the services said.
func journal() string {
	out, _ := exec.Command("journalctl", "--no-pager", "-o", "cat", "-u", "forefend.service", "-u", "forefend-tunneld.service").Output()
	return string(out)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
