// Package document is how an interceptor is told to understand requests, as JSON: what a shim writes and an agent reads. It
// is plain, since a shim must not link an interceptor. Keys and certificates are in it, in PEM: who intercepts can read no file.
package document

import (
	"net/netip"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Document is the whole of it.
type Document struct {
	Base        flow.Context `json:"base"`           // what is known of every request beforehand
	Data        string       `json:"data,omitempty"` // the workload's class of sensitivity
	Tokens      *Tokens      `json:"tokens,omitempty"`
	UserHeaders []string     `json:"user_headers,omitempty"`
	DataHeaders []string     `json:"data_headers,omitempty"`
	Mappings    []Mapping    `json:"mappings,omitempty"`
	Originate   []TLSHost    `json:"originate,omitempty"`
	Roots       string       `json:"roots,omitempty"` // certificates that servers' are checked by, where a TLSHost has none
	ServerFirst []uint16     `json:"server_first,omitempty"`
	Names       Names        `json:"names,omitzero"`
	Contacts    Contacts     `json:"contacts,omitzero"`
	// Containers are those that share the network namespace, a pod's; none: it is Base's alone.
	Containers []Container `json:"containers,omitempty"`
	Limits     *Limits     `json:"limits,omitempty"`
	// DecideWithin is for who decides beside the interceptor: what is not known by then is denied. 0: not said.
	DecideWithin time.Duration `json:"decide_within,omitempty"`
}

// Container is one of several whose connections an interceptor takes.
type Container struct {
	Cgroup   uint64       `json:"cgroup"` // in which its sockets are made: its id in the v2 hierarchy
	Base     flow.Context `json:"base"`
	Contacts Contacts     `json:"contacts,omitzero"`
}

// Tokens say which tokens are valid, and where they stand.
type Tokens struct {
	Headers  []string   `json:"headers"`
	Keys     []TokenKey `json:"keys"`
	Issuer   string     `json:"issuer,omitempty"`
	Audience string     `json:"audience,omitempty"`
}

// TokenKey is a public key that tokens are signed with.
type TokenKey struct {
	ID  string `json:"id,omitempty"`
	PEM string `json:"pem"`
}

// TLSHost is a host to which plain HTTP goes on as TLS.
type TLSHost struct {
	Host  string `json:"host"`
	Port  uint16 `json:"port,omitempty"` // 0: 443
	Roots string `json:"roots,omitempty"`
}

// Names say how names are looked up.
type Names struct {
	// Resolver is asked whatever name server an application asks; invalid: the one that it asks.
	Resolver netip.AddrPort `json:"resolver,omitzero"`
	// Resolvers are name servers whose answers are believed, as the Resolver's are. With either, a host that no such answer
	// speaks for is a claim. With neither, hosts are not checked.
	Resolvers []netip.Addr `json:"resolvers,omitempty"`
	// Services are hosts, or patterns of hosts, that answer queries for names over HTTPS.
	Services []string `json:"services,omitempty"`
	// ECH lets answers with keys for Encrypted Client Hello pass, by which clients hide hosts. Else clients hear that there are none.
	ECH bool `json:"ech,omitempty"`
	// Queries a second are taken of a container. Default 5000.
	Queries int `json:"queries,omitempty"`
}

// Contacts are whom a container may contact at all, by its own policy; the zero value lets it contact all.
type Contacts struct {
	Off    bool           `json:"off,omitempty"`    // nobody
	Closed bool           `json:"closed,omitempty"` // nobody but whom Allow or AllowNames has
	Allow  []netip.Prefix `json:"allow,omitempty"`
	Block  []netip.Prefix `json:"block,omitempty"` // whatever else is said
	// AllowNames and BlockNames are hosts: by what answers of name servers said of an address, and by what a connection names.
	AllowNames []Name `json:"allow_names,omitempty"`
	BlockNames []Name `json:"block_names,omitempty"`
}

// Name is a host, or a pattern of hosts, and a port.
type Name struct {
	Host string `json:"host"`
	Port uint16 `json:"port,omitempty"` // 0: any
}

// Limits bound an interceptor. Zero fields take the default.
type Limits struct {
	// Connections is how many clients may have open at once; those beyond it are reset. Default 4096.
	Connections int `json:"connections,omitempty"`
	// FirstByte is how long a client that says nothing is waited for before the server may speak. Default 100 ms.
	FirstByte time.Duration `json:"first_byte,omitempty"`
	// Head is how long the head of a request or a ClientHello may take from its first byte. Default 30 s.
	Head time.Duration `json:"head,omitempty"`
	// Dial is how long a connection to the server may take. Default 10 s.
	Dial time.Duration `json:"dial,omitempty"`
}

// Mapping says what requests to a host mean. Empty fields match everything, or set nothing.
type Mapping struct {
	Host   string `json:"host,omitempty"`   // in lower case; "*.example.com" is every host below example.com
	Path   string `json:"path,omitempty"`   // the beginning of the path
	Method string `json:"method,omitempty"` // in upper case

	Operation string `json:"operation,omitempty"`
	Data      string `json:"data,omitempty"`
}
