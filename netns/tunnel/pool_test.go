package tunnel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"forefend.dev/forefend/netns/flow"
)

func slots(n int) []Slot { return make([]Slot, n) }

func pool() *Pool {
	return NewPool([]Tunnel{
		{Name: "direct", Kind: Direct},
		{Name: "eu-1", Kind: WireGuard, Class: "eu", Encryption: flow.Standard, Slots: slots(2)},
		{Name: "eu-2", Kind: WireGuard, Class: "eu", Encryption: flow.Standard, Slots: slots(2)},
		{Name: "vault", Kind: WireGuard, Encryption: flow.Strong, Slots: slots(3), Dedicated: 2},
	})
}

func TestLease(t *testing.T) {
	p := pool()
	take := func(want flow.Profile, h Holder) string {
		l, _, err := p.Lease(want, h)
		if err != nil {
			if !errors.Is(err, errdefs.ErrUnavailable) {
				t.Errorf("%v is no ErrUnavailable", err)
			}
			return "none"
		}
		return fmt.Sprint(l.Tunnel, " ", l.Slot)
	}
	one, two, three := Holder{Namespace: 1}, Holder{Namespace: 2}, Holder{Namespace: 3}
	alice, bob := Holder{1, "web", "alice", ""}, Holder{1, "web", "bob", ""}
	standard, strong := flow.Profile{Encryption: flow.Standard}, flow.Profile{Encryption: flow.Strong}
	dedicated := flow.Profile{Encryption: flow.Strong, Dedicated: true}
	for i, test := range []struct {
		want   flow.Profile
		holder Holder
		got    string
	}{
		{flow.Profile{}, one, "direct 0"},
		{standard, one, "eu-1 0"},
		{standard, alice, "eu-1 0"}, // of the same namespace, shared
		{standard, two, "eu-2 0"},   // the one with less load
		{flow.Profile{Endpoint: "eu"}, three, "eu-1 1"},
		{flow.Profile{Endpoint: "eu-2"}, three, "eu-2 1"},
		{standard, Holder{Namespace: 4}, "vault 0"}, // a stronger one, where the others are full
		{strong, Holder{Namespace: 5}, "none"},      // and not what is kept for dedicated leases
		{dedicated, alice, "vault 2"},
		{dedicated, alice, "vault 2"},
		{dedicated, bob, "vault 1"},
		{dedicated, Holder{2, "web", "alice", ""}, "none"},
		{flow.Profile{Encryption: flow.Strong, Endpoint: "eu"}, one, "none"},
		{flow.Profile{Dedicated: true, Endpoint: "direct"}, one, "none"},
	} {
		if got := take(test.want, test.holder); got != test.got {
			t.Errorf("%d: %+v for %v is %s, want %s", i, test.want, test.holder, got, test.got)
		}
	}

	p.Report("eu-1", Down, "nothing came back for 15s")
	if got := take(standard, one); got != "none" { // eu-2 is full, and vault's shared slot taken
		t.Errorf("a tunnel that is down, others full: %s", got)
	}
	p.Release(Lease{"eu-2", 0, two})
	if got := take(standard, one); got != "eu-2 0" {
		t.Errorf("fail-over: %s", got)
	}
	p.Report("eu-1", Up, "")
	if err := p.Drain("eu-1", true); err != nil {
		t.Fatal(err)
	}
	for _, h := range []Holder{three, {Namespace: 9}} { // who holds it, and who does not
		if got := take(flow.Profile{Endpoint: "eu-1"}, h); got != "none" {
			t.Errorf("a drained tunnel was handed to %+v: %s", h, got)
		}
	}
	if err := p.Drain("eu-9", true); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("draining nothing: %v", err)
	}
}

// TestLeaseDrained: who holds a tunnel that is drained gets another one, and its slot stays taken until it is given back. Once the
// tunnel is back nobody is led to and fro: who holds several keeps the one that it had last.
func TestLeaseDrained(t *testing.T) {
	p := pool()
	h := Holder{Namespace: 1}
	for _, step := range []struct {
		drain string
		on    bool
		want  string
	}{
		{"eu-2", false, "eu-1 0"}, {"eu-1", true, "eu-2 0"}, {"eu-1", false, "eu-2 0"}, {"eu-2", true, "eu-1 0"}, {"eu-2", false, "eu-1 0"},
		{"eu-1", true, "eu-2 0"}, {"eu-2", true, "vault 0"}, {"eu-2", false, "eu-2 0"}, // and no more encryption than is asked for
	} {
		if err := p.Drain(step.drain, step.on); err != nil {
			t.Fatal(err)
		}
		p.Report("eu-1", Up, "") // which is no reason to change either
		got, _, err := p.Lease(flow.Profile{Encryption: flow.Standard}, h)
		if err != nil || fmt.Sprint(got.Tunnel, " ", got.Slot) != step.want {
			t.Errorf("%+v: %+v, %v", step, got, err)
		}
	}
	held := 0
	for _, s := range p.List() {
		for _, l := range s.Leases {
			held++
			p.Release(l)
		}
	}
	if held != 3 || len(p.turn) != 0 {
		t.Errorf("%d leases were held, %d are remembered", held, len(p.turn))
	}
}

// TestLeaseClasses: a class with a code point has a slot of its own of WireGuard, and of others what everybody has.
func TestLeaseClasses(t *testing.T) {
	p := NewPool([]Tunnel{{Name: "wg", Kind: WireGuard, Class: "x", Encryption: flow.Standard, Slots: slots(3)}, {Name: "vpn", Kind: OpenVPN, Encryption: flow.Standard, Slots: slots(1)}})
	for i, test := range []struct{ endpoint, qos, got string }{
		{"wg", "", "wg 0 "}, {"wg", flow.QoSBulk, "wg 1 bulk"}, {"wg", flow.QoSRealtime, "wg 2 realtime"}, {"wg", flow.QoSStandard, "wg 0 "},
		{"wg", flow.QoSBulk, "wg 1 bulk"}, {"vpn", flow.QoSBulk, "vpn 0 "}, {"vpn", flow.QoSRealtime, "vpn 0 "}, {"wg", flow.QoSInteractive, "none"},
	} {
		l, _, err := p.Lease(flow.Profile{Encryption: flow.Standard, Endpoint: test.endpoint, QoS: test.qos}, Holder{Namespace: 1})
		got := "none"
		if err == nil {
			got = fmt.Sprint(l.Tunnel, " ", l.Slot, " ", l.Holder.QoS)
		}
		if got != test.got {
			t.Errorf("%d: %s, want %s (%v)", i, got, test.got, err)
		}
	}
}

func TestRestore(t *testing.T) {
	p := pool()
	l := Lease{"eu-1", 1, Holder{Namespace: 1}}
	if _, err := p.Restore(l); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Lease{l, {"eu-1", 2, l.Holder}, {"eu-1", -1, l.Holder}, {"gone", 0, l.Holder}} {
		if _, err := p.Restore(bad); err == nil {
			t.Errorf("%+v was given back", bad)
		}
	}
	if got, _, err := p.Lease(flow.Profile{Encryption: flow.Standard}, l.Holder); err != nil || got != l {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
}

// TestLeaseLaws: whatever happens, nobody gets less than was asked for, and no slot is two's.
func TestLeaseLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := pool()
		names := []string{"direct", "eu-1", "eu-2", "vault"}
		var held []Lease
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				p.Report(rapid.SampledFrom(names).Draw(t, "name"), rapid.SampledFrom([]Health{Up, Down, Unknown}).Draw(t, "health"), "")
			case 1:
				_ = p.Drain(rapid.SampledFrom(names).Draw(t, "name"), rapid.Bool().Draw(t, "on")) // it is there
			case 2:
				if len(held) > 0 {
					p.Release(rapid.SampledFrom(held).Draw(t, "lease"))
				}
			default:
				want := flow.Profile{
					Encryption: flow.Encryption(rapid.IntRange(0, 2).Draw(t, "encryption")), Dedicated: rapid.Bool().Draw(t, "dedicated"),
					Endpoint: rapid.SampledFrom(append(names, "", "", "eu")).Draw(t, "endpoint"),
				}
				h := Holder{uint64(rapid.IntRange(1, 5).Draw(t, "namespace")), "w", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "user"), ""}
				l, tunnel, err := p.Lease(want, h)
				if err != nil {
					continue
				}
				held = append(held, l)
				if tunnel.Encryption < want.Encryption || want.Dedicated && (tunnel.Kind == Direct || l.Holder != h) {
					t.Fatalf("%+v got %+v of %+v", want, l, tunnel)
				}
			}
			for _, s := range p.List() {
				seen := map[int]bool{}
				for _, l := range s.Leases {
					if s.Tunnel.Kind == WireGuard && seen[l.Slot] {
						t.Fatalf("slot %d of %s is two's: %+v", l.Slot, s.Tunnel.Name, s.Leases)
					}
					seen[l.Slot] = true
				}
			}
		}
	})
}

func TestReadKey(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("keys are root's")
	}
	dir := t.TempDir()
	const key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", key+"\n", 0o600)
	if k, err := ReadKey(good); err != nil || fmt.Sprintf("%v %+v %#v %s", k, k, k, k) != "key key key key" {
		t.Errorf("%v, %v", k, err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		write("open", key, 0o640):                         "chmod 600",
		write("short", key[:40], 0o600):                   "44 characters",
		write("long", key+key, 0o600):                     "44 characters",
		write("empty", "", 0o600):                         "empty",
		write("zero", strings.Repeat("A", 43)+"=", 0o600): "zeroes",
		link:                          "link",
		dir:                           "mode",
		filepath.Join(dir, "missing"): "no such file",
	} {
		if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), key[:20]) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
