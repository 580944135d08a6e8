package export

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"forefend.dev/forefend/runtime/workload"
)

var update = flag.Bool("update", false, "write the golden files anew")

// redis is what a few runs of one would have taught.
func redis() Learned {
	return Learned{
		Image: "docker.io/library/redis:7", Args: []string{"redis-server", "--save", ""}, Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Prediction: workload.Prediction{
			Runs: 6, Level: workload.LevelDigestCommand.String(), Unseen: 0.012, Sealed: true,
			Seen:   map[string]int{"execve": 6, "socket": 6, "bind": 6, "listen": 6, "accept4": 6, "clone": 6, "pipe2": 2, "keyctl": 1, "personality": 1},
			Hot:    []string{"epoll_wait"},
			Memory: workload.Bound{Value: 48 << 20, Coverage: 0.99, Basis: "6 runs image+command"},
			CPU:    workload.Bound{Value: 0.25, Coverage: 0.99, Basis: "6 runs image+command"},
			PIDs:   workload.Bound{Value: 6, Coverage: 0.99, Basis: "6 runs image+command"},
			Destinations: []string{"tcp/192.0.2.1:443", "tcp/[2001:db8::1]:443", "udp/10.0.0.2:53", "tcp/10.0.0.9:6379", "tcp/127.0.0.1:80", "tcp/192.0.2.1:443",
				"icmp/192.0.2.1:0", "nonsense", "tcp/www.example.com:443", "tcp/db.example:5432", "tcp/api.example.com:443", `tcp/od\032d:80`, "tcp/*.example:80"},
			Watched: 6,
		},
	}
}

// Golden files show the forms; each is read again below by who reads it elsewhere.
func TestForms(t *testing.T) {
	for _, f := range Forms {
		got, err := Write(f.Name, redis())
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", f.Name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s (%v):\n%s", f.Name, err, got)
		}
		for _, part := range []string{"6 runs", "docker.io/library/redis:7"} {
			if !strings.Contains(string(got), part) {
				t.Errorf("%s does not say %q", f.Name, part)
			}
		}
	}
}

// TestSeccompIsRead: it says what was meant. That runc takes it is tested with cgo, and with a container.
func TestSeccompIsRead(t *testing.T) {
	l := redis()
	text, err := Write("oci-seccomp", l)
	if err != nil {
		t.Fatal(err)
	}
	p := decodeSeccomp(t, text)
	for name, want := range map[string]bool{"bind": true, "epoll_wait": true, "read": true, "execve": true, "keyctl": true, "setuid": true,
		"ptrace": false, "mount": false, "shmget": false, "unshare": false} {
		if got := allows(p, name); got != want {
			t.Errorf("%s: allowed %t, want %t", name, got, want)
		}
	}
	for _, s := range p.Syscalls {
		if slices.Contains(s.Names, "clone") && s.Action == specs.ActAllow && len(s.Args) == 0 {
			t.Error("clone has lost the condition that no new namespaces are made")
		}
	}
	if p.DefaultAction != specs.ActErrno {
		t.Errorf("the default is %s", p.DefaultAction)
	}
	l.Prediction.Sealed = false
	if text, err = Write("oci-seccomp", l); err != nil || !allows(decodeSeccomp(t, text), "symlink") || allows(p, "symlink") {
		t.Errorf("%v: a harmless call that no run made is to be allowed before the workload is sealed, and not after", err)
	}
}

func decodeSeccomp(t *testing.T, text []byte) *specs.LinuxSeccomp {
	t.Helper()
	var p specs.LinuxSeccomp
	if err := json.Unmarshal(text, &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

func allows(p *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool { return s.Action == specs.ActAllow && slices.Contains(s.Names, name) })
}

// TestNetworkPolicyIsRead: Kubernetes' own types take it, strictly, and it names the destinations, and the cluster's name servers last.
func TestNetworkPolicyIsRead(t *testing.T) {
	p := readNetworkPolicy(t, redis())
	var got []string
	for _, e := range p.Spec.Egress {
		for _, to := range e.To {
			if to.IPBlock != nil {
				got = append(got, string(*e.Ports[0].Protocol)+" "+to.IPBlock.CIDR+" "+e.Ports[0].Port.String())
			}
		}
	}
	want := []string{"TCP 192.0.2.1/32 443", "TCP 2001:db8::1/128 443", "TCP 10.0.0.9/32 6379", "UDP 10.0.0.2/32 53"}
	if !slices.Equal(got, want) || p.Spec.PolicyTypes[0] != networkingv1.PolicyTypeEgress || len(p.Spec.PolicyTypes) != 1 || p.Kind != "NetworkPolicy" {
		t.Errorf("got %q, want %q\n%+v", got, want, p)
	}
}

func readNetworkPolicy(t *testing.T, l Learned) (p networkingv1.NetworkPolicy) {
	t.Helper()
	text, err := Write("networkpolicy", l)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLookups: who may reach anybody may look names up, and is told what was seen of that; who reached nobody may not.
func TestLookups(t *testing.T) {
	for _, test := range []struct {
		destinations []string
		allowed      bool
		proxied      bool // Cilium has to see names
		says         string
	}{
		{redis().Prediction.Destinations, true, true, "Runs looked names up"},
		{[]string{"udp/10.0.0.2:53"}, true, false, "Runs looked names up"},
		{[]string{"tcp/10.0.0.2:53", "tcp/192.0.2.1:443"}, true, false, "Runs looked names up"},
		{[]string{"udp/127.0.0.11:53", "tcp/192.0.2.1:443"}, true, false, "Runs looked names up"},
		{[]string{"udp/127.0.0.11:53"}, true, false, "Runs looked names up"},
		{[]string{"tcp/www.example.com:443"}, true, true, "Runs looked names up"},
		{[]string{"tcp/192.0.2.1:443"}, true, false, "No run was seen to look a name up"},
		{[]string{"tcp/127.0.0.1:80", "nonsense"}, false, false, "all egress is denied"},
		{nil, false, false, "all egress is denied"},
	} {
		l := redis()
		l.Prediction.Destinations = test.destinations
		p := readNetworkPolicy(t, l)
		rules := slices.DeleteFunc(slices.Clone(p.Spec.Egress), func(e networkingv1.NetworkPolicyEgressRule) bool { return e.To[0].IPBlock != nil })
		if allowed := len(rules) == 1 && isDNS(rules[0]); allowed != test.allowed || len(rules) > 1 || len(p.Spec.PolicyTypes) != 1 || p.Spec.Egress == nil {
			t.Errorf("%q: %+v", test.destinations, p.Spec)
		}
		text, c := readCilium(t, l)
		last := c.Spec.Egress[len(c.Spec.Egress)-1]
		allowed := len(last.ToEndpoints) == 1 && last.ToEndpoints[0].MatchLabels["k8s:k8s-app"] == "kube-dns" && last.ToEndpoints[0].MatchLabels["k8s:io.kubernetes.pod.namespace"] == "kube-system" &&
			len(last.ToPorts) == 1 && len(last.ToPorts[0].Ports) == 1 && last.ToPorts[0].Ports[0].Port == "53" && last.ToPorts[0].Ports[0].Protocol == "ANY"
		if allowed != test.allowed || !allowed && (len(c.Spec.Egress) != 1 || last.ToCIDR != nil || last.ToPorts != nil) {
			t.Errorf("%q, Cilium: %+v", test.destinations, c.Spec)
		}
		if proxied := allowed && slices.Equal(last.ToPorts[0].Rules.DNS, []ciliumNameRead{{MatchPattern: "*"}}); proxied != test.proxied {
			t.Errorf("%q, Cilium sees names: %t\n%+v", test.destinations, proxied, last)
		}
		ours, err := Write("networkpolicy", l)
		if err != nil || !strings.Contains(unwrapped(text), test.says) || !strings.Contains(unwrapped(string(ours)), test.says) {
			t.Errorf("%q: %q is not said (%v):\n%s\n%s", test.destinations, test.says, err, ours, text)
		}
	}
}

// isDNS tells whether a rule is that for the cluster's name servers.
func isDNS(e networkingv1.NetworkPolicyEgressRule) bool {
	var ports []string
	for _, p := range e.Ports {
		ports = append(ports, string(*p.Protocol)+" "+p.Port.String())
	}
	return len(e.To) == 1 && e.To[0].NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"] == "kube-system" && e.To[0].PodSelector.MatchLabels["k8s-app"] == "kube-dns" &&
		slices.Equal(ports, []string{"UDP 53", "TCP 53"})
}

// unwrapped is a text whose comments are one line each.
func unwrapped(text string) string { return strings.ReplaceAll(text, "\n#   ", " ") }

// TestMore: what is remembered of the workload is not all that it reached, and that is said.
func TestMore(t *testing.T) {
	l := redis()
	for _, form := range []string{"networkpolicy", "cilium"} {
		for _, more := range []bool{false, true} {
			l.Prediction.More = more
			if text, err := Write(form, l); err != nil || strings.Contains(string(text), "Incomplete: no more than 13 destinations") != more {
				t.Errorf("%s, more %t: %v\n%s", form, more, err, text)
			}
		}
	}
}

// ciliumPolicyRead is cilium.io/v2 as its documentation has it, as far as we write it: the library would be a large dependency.
type ciliumPolicyRead struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		EndpointSelector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"endpointSelector"`
		Egress []struct {
			ToEndpoints []struct {
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"toEndpoints"`
			ToCIDR  []string         `json:"toCIDR"`
			ToFQDNs []ciliumNameRead `json:"toFQDNs"`
			ToPorts []struct {
				Ports []struct {
					Port     string `json:"port"`
					Protocol string `json:"protocol"`
				} `json:"ports"`
				Rules struct {
					DNS []ciliumNameRead `json:"dns"`
				} `json:"rules"`
			} `json:"toPorts"`
		} `json:"egress"`
	} `json:"spec"`
}

type ciliumNameRead struct {
	MatchName    string `json:"matchName"`
	MatchPattern string `json:"matchPattern"`
}

func readCilium(t *testing.T, l Learned) (text string, p ciliumPolicyRead) {
	t.Helper()
	body, err := Write("cilium", l)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(body, &p); err != nil {
		t.Fatal(err)
	}
	return string(body), p
}

func TestCiliumIsRead(t *testing.T) {
	_, p := readCilium(t, redis())
	var names []string // as PORT NAME
	for _, e := range p.Spec.Egress {
		if kinds := min(len(e.ToCIDR), 1) + min(len(e.ToFQDNs), 1) + min(len(e.ToEndpoints), 1); kinds != 1 || len(e.ToPorts) != 1 {
			t.Errorf("a rule with peers of %d kinds: %+v", kinds, e)
		}
		for _, n := range e.ToFQDNs {
			names = append(names, e.ToPorts[0].Ports[0].Port+" "+n.MatchName)
		}
	}
	if want := []string{"443 api.example.com", "443 www.example.com", "5432 db.example"}; !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	if len(p.Spec.Egress) != 6 || p.Spec.Egress[0].ToCIDR[1] != "2001:db8::1/128" || p.Spec.Egress[0].ToPorts[0].Ports[0].Port != "443" || p.APIVersion != "cilium.io/v2" {
		t.Errorf("%+v", p)
	}
}

// TestResourcesAreRead: Kubernetes' own types take them.
func TestResourcesAreRead(t *testing.T) {
	read := func(l Learned) (r corev1.ResourceRequirements, text string) {
		t.Helper()
		body, err := Write("resources", l)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Resources corev1.ResourceRequirements `json:"resources"`
		}
		if err := yaml.UnmarshalStrict(body, &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Resources, string(body)
	}
	r, text := read(redis())
	if r.Requests.Memory().Value() != 48<<20 || r.Requests.Cpu().MilliValue() != 250 || r.Limits.Memory().Value() != 112<<20 || len(r.Limits) != 1 ||
		!strings.Contains(text, "nerdctl run --memory 112m --pids-limit 28 docker.io/library/redis:7") {
		t.Errorf("%+v\n%s", r, text)
	}
	l := redis()
	l.Prediction.Runs = 2
	if r, text = read(l); len(r.Limits) != 0 || !strings.Contains(text, "No memory limit: 5 runs make one") || strings.Contains(text, "nerdctl run") {
		t.Errorf("%+v\n%s", r, text)
	}
}

// Nothing known is nothing said, and what is known cannot break out of a comment.
func TestNothingAndHostile(t *testing.T) {
	for _, f := range Forms {
		l := redis()
		l.Prediction = workload.Prediction{Runs: 3, Level: workload.LevelNode.String()}
		if _, err := Write(f.Name, l); !errors.Is(err, ErrNothing) {
			t.Errorf("%s of what others did: %v", f.Name, err)
		}
		l = redis()
		l.Image, l.Args = "x\nkind: Pod\u2028y/\x00Z"+strings.Repeat("é", 300), []string{"a\r\nb: c"}
		text, err := Write(f.Name, l)
		if err != nil {
			t.Fatal(err)
		}
		var any map[string]any
		if err := yaml.Unmarshal(text, &any); err != nil || any["kind"] == "Pod" || any["b"] != nil {
			t.Errorf("%s (%v):\n%s", f.Name, err, text)
		}
	}
	if _, err := Write("xml", redis()); err == nil || !strings.Contains(err.Error(), "oci-seccomp") {
		t.Error(err)
	}
	for _, f := range []string{"oci-seccomp", "resources"} {
		if _, err := Write(f, Learned{Image: "x", Prediction: workload.Prediction{Runs: 1, Level: workload.LevelExecutable.String()}}); !errors.Is(err, ErrNothing) {
			t.Errorf("%s: %v", f, err)
		}
	}
}
