package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Prefix is the prefix of every annotation Forefend reads, SourceAnnotation that of the source of what one claims.
const (
	Prefix           = "forefend.dev/"
	SourceAnnotation = "annotation "
)

// Annotations that carry a workload's profile, not a value of its policy.
const (
	AnnotationUser  = Prefix + "user"
	AnnotationGroup = Prefix + "group"
)

// AnnotationNotify offers the application a socket for sd_notify(3) when it is "on". It loosens nothing: what comes over
// it is a request.
const AnnotationNotify = Prefix + "notify"

// AnnotationData names the class of data that the workload's outbound requests carry where they say nothing themselves.
// It is no key of the policy: what a class demands is for the site's egress rules to say, so nobody can tell here whether it loosens.
// Under a grant of KeyEgress it is believed; without one it can only raise what is demanded.
const AnnotationData = Prefix + "data"

// maxAnnotation bounds one annotation's value in bytes, maxList the names in it,
// maxErrors the errors that are reported at once.
const (
	maxAnnotation = 64 << 10
	maxList       = 1024
	maxErrors     = 20
	maxPath       = 4096
)

// lists are the annotations whose value is a comma separated list of members
// of a family, each set to value. Where the family counts something, each item says its own.
var lists = map[string]struct {
	family Key
	value  Value
}{
	"syscalls.allow":    {KeySyscalls, SyscallWatch},
	"syscalls.deny":     {KeySyscalls, SyscallDeny},
	"serving.allow":     {KeyServing, SyscallWatch},
	"serving.deny":      {KeyServing, SyscallDeny},
	"capabilities.add":  {KeyCapabilities, Loose},
	"capabilities.drop": {KeyCapabilities, Tight},
	"masked_paths":      {KeyMaskedPaths, Tight},
	"readonly_paths":    {KeyReadonlyPaths, Tight},
	"egress.allow":      {KeyEgress, Loose},
	"egress.block":      {KeyEgress, Tight},
	"devices.allow":     {KeyDevices, DeviceAll},
	"devices.deny":      {KeyDevices, DeviceNone},
	"io.read":           {KeyIORead, Unlimited},
	"io.write":          {KeyIOWrite, Unlimited},
}

// plain are the annotations that set one plain key of the same name.
var plain = []Key{KeyMode, KeyAgent, KeyMemory, KeyMemorySoft, KeyMemorySwap, KeyCPUs, KeyCPUShares, KeyPIDs, KeyIOWeight, KeyOOMScore,
	KeySeccomp, KeyNetwork, KeyEgressDefault, KeyEgressFeeds, KeyReadonlyRoot, KeyNoNewPrivileges, KeyExec}

// AnnotationNames lists every annotation ParseAnnotations knows, without Prefix.
func AnnotationNames() []string {
	names := []string{"user", "group", "notify", "data"}
	for name := range lists {
		names = append(names, name)
	}
	for _, k := range plain {
		names = append(names, string(k))
	}
	slices.Sort(names)
	return names
}

// ParseAnnotations turns a container's forefend.dev/ annotations into claims
// of the request. Annotations without the prefix are ignored; an unknown name or a
// malformed value is an error, and all errors are returned at once, each naming
// its annotation. With an error no claims are returned.
func ParseAnnotations(annotations map[string]string) ([]Claim, error) {
	names := make([]string, 0, len(annotations))
	for name := range annotations {
		if strings.HasPrefix(name, Prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var claims []Claim
	var errs []error
	for _, name := range names {
		c, err := parseAnnotation(strings.TrimPrefix(name, Prefix), annotations[name])
		switch {
		case err != nil && len(errs) == maxErrors:
			return nil, errors.Join(append(errs, errors.New("and more annotations are wrong"))...)
		case err != nil:
			errs = append(errs, fmt.Errorf("annotation %s: %w", printable(name), err))
		}
		claims = append(claims, c...)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return claims, nil
}

// printable is a hostile name, fit for an error.
func printable(name string) string {
	const most = 200
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name[:min(len(name), most)])
}

func parseAnnotation(name, value string) ([]Claim, error) {
	return parse(name, value, Origin{Author: Request, Source: SourceAnnotation + Prefix + name})
}

// ParseSetting reads what is wanted of a running container. name and value are those of an annotation without
// Prefix, or a member of a family and its value ("syscalls/ptrace", "deny"). The claims amend where o is a request's.
func ParseSetting(name, value string, o Origin) ([]Claim, error) {
	if family, member := Key(name).Family(); member != "" {
		member, err := memberName(family, member)
		if err != nil {
			return nil, err
		}
		key := family.Member(member)
		v, err := key.Parse(value)
		return []Claim{{Key: key, Value: v, Origin: o, Amends: o.Author == Request}}, err
	}
	switch name {
	case string(KeySealed):
		v, err := KeySealed.Parse(value)
		return []Claim{{Key: KeySealed, Value: v, Origin: o, Amends: o.Author == Request}}, err
	case "user", "group":
		return nil, errors.New("is part of who the container is, and stays")
	case "notify":
		return nil, errors.New("is offered when the container is created")
	case "data":
		return nil, errors.New("is said when the container is created, and stays")
	}
	return parse(name, value, o)
}

// SettingNames lists what ParseSetting takes beside members of families.
func SettingNames() []string {
	names := append(AnnotationNames(), string(KeySealed))
	slices.Sort(names)
	return slices.DeleteFunc(names, func(s string) bool { return s == "user" || s == "group" || s == "notify" || s == "data" })
}

// Setting finds the claims that ParseSetting makes of a name, or some of them: it returns whether one is.
func Setting(name string) (func(Claim) bool, error) {
	if l, ok := lists[name]; ok && name != string(l.family) { // else all of the family is meant, what was let go too
		gives := strings.HasSuffix(name, ".allow") || strings.HasSuffix(name, ".add")
		return func(c Claim) bool {
			family, _ := c.Key.Family()
			if family == KeyDevices {
				return l.family == KeyDevices && gives == (c.Value > DeviceNone)
			}
			return family == l.family && (c.Value == l.value || gives == (c.Value > l.value))
		}, nil
	}
	key := Key(name)
	if keyIndex[key] != nil {
		return func(c Claim) bool { family, _ := c.Key.Family(); return family == key }, nil
	}
	if family, member := key.Family(); member != "" {
		member, err := memberName(family, member)
		return func(c Claim) bool { return c.Key == family.Member(member) }, err
	}
	return nil, unknownName()
}

func unknownName() error {
	return fmt.Errorf("unknown; known are %s", strings.Join(AnnotationNames(), ", "))
}

func parse(name, value string, origin Origin) ([]Claim, error) {
	if len(value) > maxAnnotation {
		return nil, fmt.Errorf("value has %d bytes, the most is %d", len(value), maxAnnotation)
	}
	if _, ok := lists[name]; ok {
		return parseList(name, value, origin)
	}
	key := Key(name)
	if slices.Contains(plain, key) {
		v, err := key.Parse(value)
		if err != nil {
			return nil, err
		}
		return []Claim{{Key: key, Value: v, Origin: origin, Amends: origin.Author == Request}}, nil
	}
	if Prefix+name == AnnotationUser || Prefix+name == AnnotationGroup {
		return nil, CheckIdentity(value)
	}
	if Prefix+name == AnnotationNotify {
		if value != "on" && value != "off" {
			return nil, fmt.Errorf("%.40q is neither on nor off", value)
		}
		return nil, nil
	}
	if Prefix+name == AnnotationData {
		return nil, checkClass(value)
	}
	return nil, unknownName()
}

// DataClass is the class of data that a container's annotations name, in lower case as interceptors have it; "": none.
func DataClass(annotations map[string]string) string {
	return strings.ToLower(annotations[AnnotationData])
}

// checkClass refuses what no request could say either.
func checkClass(s string) error {
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%.40q is not a class of data: 1 to 64 printable characters without spaces", s)
	}
	return nil
}

// CheckIdentity refuses user and group names that are empty, longer than 128
// bytes or not printable ASCII without spaces.
func CheckIdentity(s string) error {
	if s == "" || len(s) > 128 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%.40q is not a name of 1 to 128 printable characters without spaces", s)
	}
	return nil
}

// allCapabilities is what "ALL" means, the word of Docker and Kubernetes.
func allCapabilities(v Value, origin Origin) []Claim {
	claims := make([]Claim, 0, len(capabilityNames))
	for _, name := range capabilityNames {
		claims = append(claims, Claim{Key: KeyCapabilities.Member(name), Value: v, Origin: origin, Amends: origin.Author == Request})
	}
	return claims
}

func parseList(name, list string, origin Origin) ([]Claim, error) {
	var claims []Claim
	for item := range strings.SplitSeq(list, ",") {
		if len(claims) == maxList {
			return nil, fmt.Errorf("more than %d names", maxList)
		}
		item = strings.TrimSpace(item)
		if lists[name].family == KeyCapabilities && strings.EqualFold(item, "all") {
			claims = append(claims, allCapabilities(lists[name].value, origin)...)
			continue
		}
		key, v, err := ParseMember(name, item)
		if err != nil {
			return nil, err
		}
		claims = append(claims, Claim{Key: key, Value: v, Origin: origin, Amends: origin.Author == Request})
	}
	return claims, nil
}

// ListNames lists the annotations whose value is a list, without Prefix.
// Config uses the same words.
func ListNames() []string { return slices.Sorted(maps.Keys(lists)) }

// ParseMember reads one item of the list called name: "NET_RAW" of
// "capabilities.drop" is capabilities/CAP_NET_RAW with the value Tight. An item of "devices.allow" may say how far:
// "c:10:229=rw". One of "io.read" or "io.write" says how much: "8:0=10Mi".
func ParseMember(name, item string) (Key, Value, error) {
	l, ok := lists[name]
	if !ok {
		return "", 0, fmt.Errorf("%.60q is not one of %s", name, strings.Join(ListNames(), ", "))
	}
	counted := l.family.Words() == nil
	device, value, said := strings.Cut(item, "=")
	switch {
	case said && (counted || name == "devices.allow"):
		v, err := l.family.Parse(value)
		if err != nil {
			return "", 0, err
		}
		item, l.value = device, v
	case counted:
		return "", 0, fmt.Errorf("%.60q does not say how much, as in 8:0=10Mi", item)
	}
	member, err := memberName(l.family, item)
	if err != nil {
		return "", 0, err
	}
	return l.family.Member(member), l.value, nil
}

// memberName checks and normalises the name of a family's member.
func memberName(family Key, s string) (string, error) {
	switch family {
	case KeyCapabilities:
		name := strings.ToUpper(s)
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if !identifier(name) || len(name) < 6 {
			return "", fmt.Errorf("%.60q is not the name of a capability such as NET_RAW", s)
		}
		return name, nil
	case KeyRlimits:
		name := strings.ToUpper(s)
		if !strings.HasPrefix(name, "RLIMIT_") {
			name = "RLIMIT_" + name
		}
		if !identifier(name) || len(name) < 8 {
			return "", fmt.Errorf("%.60q is not the name of a resource limit such as NOFILE", s)
		}
		return name, nil
	case KeyMaskedPaths, KeyReadonlyPaths:
		if len(s) > maxPath || path.Clean(s) != s || s == "/" || s[0] != '/' || strings.ContainsFunc(s, unicode.IsControl) {
			return "", fmt.Errorf("%.60q is not a clean absolute path such as /proc/kcore", s)
		}
		return s, nil
	case KeyEgress:
		return egressName(s)
	case KeyDevices:
		d, err := ParseDevice(s)
		if err != nil {
			return "", err
		}
		return d.String(), nil
	case KeyIORead, KeyIOWrite:
		d, err := ParseDisk(s)
		if err != nil {
			return "", err
		}
		return d.String(), nil
	}
	if !identifier(s) {
		return "", fmt.Errorf("%.60q is not the name of a system call such as ptrace", s)
	}
	return s, nil
}

// egressName is the one name of an address or network: "192.0.2.1", "2001:db8::/32".
func egressName(s string) (string, error) {
	p, ok := ParseEgress(s)
	if !ok {
		if host, port, ok := ParseEgressName(strings.ToLower(s)); ok {
			return host + egressPort(port), nil
		}
		return "", fmt.Errorf("%.60q is not an address, a network or a name such as 192.0.2.1, 2001:db8::/32 or *.example.com:443", s)
	}
	if masked := p.Masked(); masked != p {
		return "", fmt.Errorf("%.60q has bits behind its network: write %s", s, masked)
	}
	if p.IsSingleIP() {
		return p.Addr().String(), nil
	}
	return p.String(), nil
}

// ParseEgressName reads a member of KeyEgress that is a host, or a pattern of those below one, and perhaps a port (0: any):
// "db.example.com:5432", "*.example.com".
func ParseEgressName(name string) (host string, port uint16, ok bool) {
	host = name
	if at := strings.LastIndexByte(name, ':'); at >= 0 {
		n, err := strconv.ParseUint(name[at+1:], 10, 16)
		if err != nil || n == 0 || name[at+1] == '0' {
			return "", 0, false
		}
		host, port = name[:at], uint16(n)
	}
	if len(host) > 253 {
		return "", 0, false
	}
	letter := false
	for label := range strings.SplitSeq(strings.TrimPrefix(host, "*."), ".") {
		if label == "" || len(label) > 63 {
			return "", 0, false
		}
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z', c == '_':
				letter = true
			case c != '-' && (c < '0' || c > '9'):
				return "", 0, false
			}
		}
	}
	return host, port, letter // without one it would be an address, badly written
}

func egressPort(port uint16) string {
	if port == 0 {
		return ""
	}
	return ":" + strconv.Itoa(int(port))
}

// ParseEgress reads the name of a member of KeyEgress: an address, or a network as prefix. IPv4 in IPv6 is IPv4.
func ParseEgress(name string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(name); err == nil {
		if a := p.Addr(); a.Is4In6() {
			if p.Bits() < 96 {
				return netip.Prefix{}, false
			}
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		return p, true
	}
	a, err := netip.ParseAddr(name)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

func identifier(s string) bool {
	return s != "" && len(s) <= 40 && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}
