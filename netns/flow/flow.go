// Package flow is what the parts of egress say to one another (DESIGN section 9): what is known of an outbound request,
// and what was decided about it.
package flow

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Version of Context and Decision, as they travel between agent, daemon and a central decision point.
const Version = 1

// Protocol is what was recognised in the first bytes of a connection.
type Protocol string

// The protocols. Opaque is everything that is decided by address and port alone.
const (
	HTTP   Protocol = "http"
	TLS    Protocol = "tls"
	Opaque Protocol = "opaque"
	DNS    Protocol = "dns" // a query for a name; each is decided on its own
)

// ServiceDNS is the service of what looks names up, whatever protocol it takes.
const ServiceDNS = "dns"

// Proof is how far an identity can be believed.
type Proof string

// The proofs, from weak to strong. A claim may raise strictness and never lower it.
const (
	Claimed  Proof = "claim"    // a header that anybody can write
	Workload Proof = "workload" // the container's own identity: nothing was said of a user
	Verified Proof = "token"    // a token whose signature was checked
	Answered Proof = "answer"   // of a host: a name server that the site trusts has said so

	// Certified is of a host, whose certificate is checked before anything is sent.
	Certified Proof = "certificate"
)

// The operations that rules know; mapping tables may name others.
const (
	Read  = "read"
	Write = "write"
)

// Context is what is known of one outbound request, or of a whole connection where no request can be seen. Texts are as the
// request has them, bounded and normalised by the interceptor: Host lower case without port, Method upper case, Service as written.
type Context struct {
	Version int `json:"version"`

	Container string `json:"container,omitempty"` // its ID
	Namespace string `json:"namespace,omitempty"` // containerd's
	Workload  string `json:"workload,omitempty"`  // name of what runs, as in history
	Image     string `json:"image,omitempty"`     // reference
	Risk      int    `json:"risk"`                // 0–100, of the container now

	Protocol    Protocol       `json:"protocol"`
	Destination netip.AddrPort `json:"destination"` // where the application wanted to connect to

	User      string `json:"user,omitempty"`
	UserProof Proof  `json:"user_proof,omitempty"`
	// Credential is the token, where one proves the user. It travels beside the Context, only to who decides.
	Credential Credential `json:"-"`
	Data       string     `json:"data,omitempty"`  // class of sensitivity; empty: unknown, the site's default applies
	Label      string     `json:"label,omitempty"` // the class that the workload claims for what says none; it may raise strictness and never lower it
	Operation  string     `json:"operation,omitempty"`
	Host       string     `json:"host,omitempty"`
	HostProof  Proof      `json:"host_proof,omitempty"` // of Host; empty: the site does not check it
	// Names are what the host of a connection that names none may be, in their order, where its address was the answer for several: Host is empty then,
	// and HostProof is of all of them.
	Names   []string `json:"names,omitempty"`
	Method  string   `json:"method,omitempty"`
	Path    string   `json:"path,omitempty"`    // without query
	Service string   `json:"service,omitempty"` // of gRPC

	// Process is nil while it was not looked up. Where a Decision on such a Context depends on FieldProcess it is void (and
	// denies): look the process up, or give an empty one where that fails, and ask again.
	Process *Process `json:"process,omitempty"`
}

// HostText is the host, or what it may be, for people: "a.example or b.example".
func (c *Context) HostText() string {
	if c.Host != "" {
		return c.Host
	}
	return strings.Join(c.Names, " or ")
}

// MaxNames is how many names a Context may have; with more it is denied.
const MaxNames = 16

// Process is who opened the connection.
type Process struct {
	Executable string `json:"executable"`
	PID        int    `json:"pid"` // in the host's namespace
}

// Field names a part of a Context, as rules and depended-on lists write it.
type Field string

// The fields, and what else a rule sees: the time, and the node's load.
const (
	FieldWorkload    Field = "workload"
	FieldNamespace   Field = "containerd_namespace" // namespace is a reserved word of CEL
	FieldContainer   Field = "container"
	FieldImage       Field = "image"
	FieldRisk        Field = "risk"
	FieldProtocol    Field = "protocol"
	FieldDestination Field = "destination" // address
	FieldPort        Field = "port"
	FieldUser        Field = "user"
	FieldUserProof   Field = "user_proof"
	FieldData        Field = "data"
	FieldOperation   Field = "operation"
	FieldHost        Field = "host"
	FieldHostProof   Field = "host_proof"
	FieldMethod      Field = "method"
	FieldPath        Field = "path"
	FieldService     Field = "service"
	FieldProcess     Field = "process"
	FieldTime        Field = "now"
	FieldLoad        Field = "load"
)

// Encryption is a level; the greater is the stronger.
type Encryption int

// The levels.
const (
	None     Encryption = iota // a direct tunnel will do
	Standard                   // WireGuard, OpenVPN
	Strong                     // with a pre-shared key
)

var encryptions = []string{"none", "standard", "strong"}

// String is the level's word in rules and config.
func (e Encryption) String() string {
	if e < 0 || int(e) >= len(encryptions) {
		return fmt.Sprintf("encryption(%d)", int(e))
	}
	return encryptions[e]
}

// MarshalText implements encoding.TextMarshaler.
func (e Encryption) MarshalText() ([]byte, error) {
	if e < 0 || int(e) >= len(encryptions) {
		return nil, fmt.Errorf("no level of encryption has the number %d", int(e))
	}
	return []byte(encryptions[e]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Encryption) UnmarshalText(text []byte) error {
	i := slices.Index(encryptions, string(text))
	if i < 0 {
		return fmt.Errorf("encryption %.30q: want none, standard or strong", text)
	}
	*e = Encryption(i)
	return nil
}

// The QoS classes, from the least urgent to the most. Of two that rules ask for the less urgent is taken.
const (
	QoSBulk        = "bulk"
	QoSStandard    = "standard"
	QoSInteractive = "interactive"
	QoSRealtime    = "realtime"
)

// QoSClasses are the classes in that order.
var QoSClasses = []string{QoSBulk, QoSStandard, QoSInteractive, QoSRealtime}

// DSCP is the code point of a class by RFC 8622 (LE), 4594 (AF21) and 3246 (EF); 0, the default, of any other.
func DSCP(class string) uint8 {
	switch class {
	case QoSBulk:
		return 1
	case QoSInteractive:
		return 18
	case QoSRealtime:
		return 46
	}
	return 0
}

// Scope says what shares one rate.
type Scope string

// The scopes.
const (
	PerConnection Scope = "connection"
	PerUser       Scope = "user"
	PerRule       Scope = "rule"
)

// Rate is a limit; zero fields limit nothing.
type Rate struct {
	Bytes    int64  `json:"bytes,omitempty"`    // per second, each way
	Requests int64  `json:"requests,omitempty"` // per second
	Scope    Scope  `json:"scope,omitempty"`
	Rule     string `json:"rule,omitempty"` // which set it: what PerRule shares by
}

// Profile is what a request's tunnel must be. Merging takes the most encryption, the least rate of each scope, dedicated over
// shared and the less urgent QoS class; two different endpoints deny. One that denies has no other field.
type Profile struct {
	Deny       bool       `json:"deny,omitempty"`
	Encryption Encryption `json:"encryption"`
	Dedicated  bool       `json:"dedicated,omitempty"` // to a workload and user
	Endpoint   string     `json:"endpoint,omitempty"`  // name of a tunnel or of a class of them; empty: any that fits
	Rates      []Rate     `json:"rates,omitempty"`     // all hold
	QoS        string     `json:"qos,omitempty"`       // one of QoSClasses; empty: as the application's packets are
}

// Match is a rule that applied, and why.
type Match struct {
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
}

// Decision is the answer about a Context. It is good for every Context with the same values of Depends until the epoch
// changes or Valid has passed.
type Decision struct {
	Version int           `json:"version"`
	Profile Profile       `json:"profile"`
	Matches []Match       `json:"matches,omitempty"`
	Reason  string        `json:"reason"` // one line: what decided, what lost
	Depends []Field       `json:"depends,omitempty"`
	Epoch   uint64        `json:"epoch"`
	Valid   time.Duration `json:"valid,omitempty"` // 0: while the epoch lasts
	// RuleVersion is which rules decided: the number of a version in the store ("13"), or the digest of a directory's files
	// ("sha256:…"). Empty: it is not known, as of releases before it was told, or no rules had a say.
	RuleVersion string `json:"rule_version,omitempty"`
}
