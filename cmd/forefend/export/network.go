package export

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// place is a port, and the networks and hosts at which runs found it.
type place struct {
	protocol string // TCP or UDP
	port     uint16
	networks []netip.Prefix
	names    []string // in lower case, without the root's dot
}

// places reads destinations, "tcp/192.0.2.1:443" or "tcp/www.example.com:443". What is in the pod itself no policy is about.
func places(destinations []string) (list []place, skipped []string) {
	for _, d := range destinations {
		protocol, rest, _ := strings.Cut(d, "/")
		protocol = strings.ToUpper(protocol)
		host, number, _ := net.SplitHostPort(rest) // without a port there is no number
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || port == 0 || protocol != "TCP" && protocol != "UDP" {
			skipped = append(skipped, plain(d))
			continue
		}
		a, err := netip.ParseAddr(host)
		a = a.Unmap().WithZone("")
		switch {
		case err != nil && !matchName.MatchString(host):
			skipped = append(skipped, plain(d))
			continue
		case err == nil && (a.IsLoopback() || a.IsUnspecified()):
			continue
		}
		i := slices.IndexFunc(list, func(p place) bool { return p.protocol == protocol && p.port == uint16(port) })
		if i < 0 {
			i = len(list)
			list = append(list, place{protocol: protocol, port: uint16(port)})
		}
		if err != nil {
			list[i].names = append(list[i].names, host)
		} else {
			list[i].networks = append(list[i].networks, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(list, func(x, y place) int {
		return strings.Compare(fmt.Sprintf("%s %05d", x.protocol, x.port), fmt.Sprintf("%s %05d", y.protocol, y.port))
	})
	for i, p := range list {
		slices.SortFunc(p.networks, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
		slices.Sort(p.names)
		list[i].networks, list[i].names = slices.Compact(p.networks), slices.Compact(p.names)
	}
	return list, skipped
}

// matchName is what Cilium takes for a name (its FQDNSelector), in lower case as they are learned.
var matchName = regexp.MustCompile(`^([-a-z0-9_]+\.?)+$`)

// domain is the port of name servers.
const domain = 53

// lookups tells whether runs were seen to look names up, and whether they are to be let: nearly whatever reaches another host does, and musl's
// resolver sends its queries unconnected, by calls so frequent that Forefend does not count them. One in the pod itself asks another one elsewhere.
func lookups(destinations []string, list []place) (seen, allowed bool) {
	seen = slices.ContainsFunc(destinations, func(d string) bool {
		protocol, rest, _ := strings.Cut(d, "/")
		_, port, err := net.SplitHostPort(rest)
		return err == nil && port == strconv.Itoa(domain) && (protocol == "udp" || protocol == "tcp")
	}) || len(namesOf(list)) > 0
	return seen, seen || len(list) > 0
}

// aboutLookups says why there is a rule for lookups, or none.
func aboutLookups(seen, allowed bool) string {
	switch {
	case seen:
		return "Runs looked names up: the last rule lets pods ask the cluster's name servers (kube-dns; CoreDNS has that label, too). Write others there if yours are (a cache on each node is one)."
	case allowed:
		return "No run was seen to look a name up, but who sends queries unconnected, as musl does, is not seen, and without a rule every lookup would fail: the last rule lets pods ask " +
			"the cluster's name servers (kube-dns). Strike it out if the workload knows addresses only."
	}
	return "No run reached anything, nor asked a name server: all egress is denied, lookups of names as well."
}

// The labels of a cluster's name servers.
const (
	dnsNamespace = "kube-system"
	dnsApp       = "kube-dns"
)

// namesOf are the hosts at all of them.
func namesOf(list []place) (all []string) {
	for _, p := range list {
		all = append(all, p.names...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

type metadata struct {
	Name   string            `yaml:"name"`
	Labels map[string]string `yaml:"labels,omitempty"`
}

type selector struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

// The part of networking.k8s.io/v1 that is written.
type networkPolicyYAML struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       struct {
		PodSelector selector     `yaml:"podSelector"`
		PolicyTypes []string     `yaml:"policyTypes"`
		Egress      []egressYAML `yaml:"egress"`
	} `yaml:"spec"`
}

type egressYAML struct {
	To    []peerYAML `yaml:"to"`
	Ports []portYAML `yaml:"ports"`
}

type peerYAML struct {
	IPBlock           *blockYAML `yaml:"ipBlock,omitempty"`
	NamespaceSelector *selector  `yaml:"namespaceSelector,omitempty"`
	PodSelector       *selector  `yaml:"podSelector,omitempty"` // of the namespaces
}

type blockYAML struct {
	CIDR string `yaml:"cidr"`
}

type portYAML struct {
	Protocol string `yaml:"protocol"`
	Port     uint16 `yaml:"port"`
}

func networkPolicy(l Learned) ([]byte, error) {
	var p networkPolicyYAML
	p.APIVersion, p.Kind = "networking.k8s.io/v1", "NetworkPolicy"
	p.Metadata.Name = l.name() + "-learned-egress"
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": l.name()}
	p.Spec.PolicyTypes = []string{"Egress"}
	p.Spec.Egress = []egressYAML{}
	list, skipped := places(l.Prediction.Destinations)
	for _, at := range list {
		if len(at.networks) == 0 { // a rule without a peer would let everything out by this port
			continue
		}
		e := egressYAML{Ports: []portYAML{{at.protocol, at.port}}}
		for _, n := range at.networks {
			e.To = append(e.To, peerYAML{IPBlock: &blockYAML{n.String()}})
		}
		p.Spec.Egress = append(p.Spec.Egress, e)
	}
	seen, allowed := lookups(l.Prediction.Destinations, list)
	if allowed {
		p.Spec.Egress = append(p.Spec.Egress, egressYAML{
			To: []peerYAML{{NamespaceSelector: &selector{map[string]string{"kubernetes.io/metadata.name": dnsNamespace}},
				PodSelector: &selector{map[string]string{"k8s-app": dnsApp}}}},
			Ports: []portYAML{{"UDP", domain}, {"TCP", domain}}, // TCP for answers that are too long
		})
	}
	notes := append(l.networkBasis(skipped), aboutLookups(seen, allowed), "The addresses are those that runs reached; behind a Service's address the policy has to name the pods.")
	if names := namesOf(list); len(names) > 0 {
		notes = append(notes, "Reached by name, which a NetworkPolicy cannot say, so that their addresses may be others tomorrow: "+strings.Join(names, ", "))
	}
	return l.document(notes, p)
}

// The part of cilium.io/v2 that is written.
type ciliumYAML struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       struct {
		EndpointSelector selector           `yaml:"endpointSelector"`
		Egress           []ciliumEgressYAML `yaml:"egress"`
	} `yaml:"spec"`
}

type ciliumEgressYAML struct {
	ToEndpoints []selector        `yaml:"toEndpoints,omitempty"`
	ToCIDR      []string          `yaml:"toCIDR,omitempty"`
	ToFQDNs     []ciliumNameYAML  `yaml:"toFQDNs,omitempty"`
	ToPorts     []ciliumPortsYAML `yaml:"toPorts,omitempty"`
}

type ciliumNameYAML struct {
	MatchName    string `yaml:"matchName,omitempty"`
	MatchPattern string `yaml:"matchPattern,omitempty"`
}

type ciliumPortsYAML struct {
	Ports []ciliumPortYAML `yaml:"ports"`
	Rules *ciliumRulesYAML `yaml:"rules,omitempty"`
}

type ciliumRulesYAML struct {
	DNS []ciliumNameYAML `yaml:"dns"`
}

type ciliumPortYAML struct {
	Port     string `yaml:"port"`
	Protocol string `yaml:"protocol"`
}

func ciliumPolicy(l Learned) ([]byte, error) {
	var p ciliumYAML
	p.APIVersion, p.Kind = "cilium.io/v2", "CiliumNetworkPolicy"
	p.Metadata.Name = l.name() + "-learned-egress"
	p.Spec.EndpointSelector.MatchLabels = map[string]string{"app": l.name()}
	list, skipped := places(l.Prediction.Destinations)
	for _, at := range list {
		ports := []ciliumPortsYAML{{Ports: []ciliumPortYAML{{fmt.Sprint(at.port), at.protocol}}}}
		var networks []string
		for _, n := range at.networks {
			networks = append(networks, n.String())
		}
		if networks != nil { // a rule has one kind of peer
			p.Spec.Egress = append(p.Spec.Egress, ciliumEgressYAML{ToCIDR: networks, ToPorts: ports})
		}
		if at.names != nil {
			p.Spec.Egress = append(p.Spec.Egress, ciliumEgressYAML{ToFQDNs: matched(at.names), ToPorts: ports})
		}
	}
	seen, allowed := lookups(l.Prediction.Destinations, list)
	notes := append(l.networkBasis(skipped), aboutLookups(seen, allowed))
	names := namesOf(list)
	if len(names) > 0 {
		notes = append(notes, fmt.Sprintf("%s in toFQDNs from %s. Cilium knows their addresses from the answers that its DNS proxy sees, by rules.dns. The pattern lets all names be asked for: resolvers try those "+
			"of search domains first, and give up where one is refused. Where data must not leave by names, write yours with each search domain.", plural(len(names), "name"), plural(l.Prediction.Watched, "run")),
			"What was reached by a name is in toCIDR as well, as the address that it had: strike out what changes.")
	}
	if allowed {
		p.Spec.Egress = append(p.Spec.Egress, ciliumLookups(len(names) > 0))
	} else {
		p.Spec.Egress = []ciliumEgressYAML{{}} // a rule that allows nothing: without any, egress would not be enforced
	}
	return l.document(notes, p)
}

func matched(names []string) (all []ciliumNameYAML) {
	for _, n := range names {
		all = append(all, ciliumNameYAML{MatchName: n})
	}
	return all
}

// ciliumLookups lets names be looked up at the cluster's name servers, where names are in rules by the proxy: without it Cilium learns none of their
// addresses. Where there are none, lookups need no proxy.
func ciliumLookups(names bool) ciliumEgressYAML {
	ports := ciliumPortsYAML{Ports: []ciliumPortYAML{{strconv.Itoa(domain), "ANY"}}}
	if names {
		ports.Rules = &ciliumRulesYAML{[]ciliumNameYAML{{MatchPattern: "*"}}}
	}
	return ciliumEgressYAML{
		ToEndpoints: []selector{{map[string]string{"k8s:io.kubernetes.pod.namespace": dnsNamespace, "k8s:k8s-app": dnsApp}}},
		ToPorts:     []ciliumPortsYAML{ports},
	}
}

// networkBasis says what an export of destinations follows from and leaves out.
func (l Learned) networkBasis(skipped []string) []string {
	lines := append(l.basis(), fmt.Sprintf("%s; whether the next run reaches another one was not estimated.", plural(len(l.Prediction.Destinations), "destination")),
		"The selector is a guess: write the labels of your pods.")
	if l.Prediction.More {
		lines = append(lines, fmt.Sprintf("Incomplete: no more than %d destinations of a workload are remembered, the others would be denied.", len(l.Prediction.Destinations)))
	}
	if len(skipped) > 0 {
		lines = append(lines, "Left out, not TCP or UDP to an address or name and a port: "+plain(strings.Join(skipped, ", ")))
	}
	return lines
}

// document writes YAML below comments.
func (l Learned) document(comments []string, object any) ([]byte, error) {
	var b bytes.Buffer
	for _, c := range comments {
		comment(&b, c)
	}
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(object); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return b.Bytes(), e.Close()
}

// comment writes a comment in lines of at most 100 columns, as far as its words allow.
func comment(b *bytes.Buffer, text string) {
	const most = 98
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
			b.WriteString("# ")
		case column+1+len(word) > most:
			b.WriteString("\n#   ")
			column = 2
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteString("\n")
}
