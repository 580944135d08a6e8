package flow

import (
	"fmt"
	"net/netip"
	"time"
)

// Account is what is known on a node of one TCP connection to a server that takes a gateway's tunnel, as the node's kernel counts
// (tcp(7), TCP_INFO): bytes are those of the stream, without headers.
type Account struct {
	ID     uint64         `json:"id"`     // of the interceptor's, increasing
	Local  netip.AddrPort `json:"local"`  // the peer's own address
	Remote netip.AddrPort `json:"remote"` // the server's
	Tunnel string         `json:"tunnel"`
	// Container is whose of a pod's it is, by the agent's word; "": that is not known, or it is the only one's.
	Container string    `json:"container,omitempty"`
	Began     time.Time `json:"began"` // when it was asked for: before its first packet
	Ended     time.Time `json:"ended,omitzero"`
	Sent      uint64    `json:"sent"`               // retransmissions included
	Acked     uint64    `json:"acked"`              // that the server has
	Open      uint64    `json:"open,omitempty"`     // that it may not have yet, sent or not
	Received  uint64    `json:"received"`           // in order
	Repeated  uint64    `json:"repeated,omitempty"` // at most so much of what came was not new
	Window    uint64    `json:"window,omitempty"`   // how much more the server may have sent when it ended
}

// Datagrams is what an interceptor has exchanged with one server by one tunnel without a connection, since it began: queries for names. Bytes are
// those of UDP's payload.
type Datagrams struct {
	Remote   netip.AddrPort `json:"remote"`
	Tunnel   string         `json:"tunnel"`
	Sent     uint64         `json:"sent"` // counted before they leave
	Received uint64         `json:"received"`
}

// Accounts are those of one interceptor: what lives, and what ended since it was last asked.
type Accounts struct {
	Since time.Time `json:"since"`          // when the interceptor began, knowing of nothing before
	At    time.Time `json:"at"`             // when they were read
	List  []Account `json:"list,omitempty"` // by ID
	Next  uint64    `json:"next"`           // what to ask with next: how many have ended
	Live  uint64    `json:"live,omitempty"` // the ID after which those that live go on
	More  bool      `json:"more,omitempty"` // the list is not all; ask again at once
	// Datagrams are with the last of the list, read after it; nil are those of an interceptor that does not count them.
	Datagrams []Datagrams `json:"datagrams"`
	// Lost is when the last one ended that was dropped before anybody asked, and Left how many were.
	Lost time.Time `json:"lost,omitzero"`
	Left uint64    `json:"left,omitempty"`
}

// Standing is what comes of comparing an Account with its gateway's receipts.
type Standing string

// The standings. The last four are faults.
const (
	Agrees    Standing = "agrees"
	Pending   Standing = "pending"   // there is nothing to compare yet
	Partial   Standing = "partial"   // the gateway has not seen its beginning: only that it did not count too much is known
	Unsettled Standing = "unsettled" // it cannot be compared, for the reason that Why has
	Astray    Standing = "astray"    // the gateway does not know it: it went elsewhere
	Differs   Standing = "differs"   // the counts cannot be of one connection
	Unclaimed Standing = "unclaimed" // the gateway counts a connection that no interceptor knows
	Forged    Standing = "forged"    // what the gateway answered is no receipt
)

// Fault tells whether something is wrong.
func (s Standing) Fault() bool { return s == Astray || s == Differs || s == Unclaimed || s == Forged }

// Verdict is about one connection, or all datagrams to one server by one tunnel, which have a protocol and mostly no one end. Of a forged sheet
// it is about all of the tunnel's.
type Verdict struct {
	Protocol uint8          `json:"protocol,omitempty"` // of IP
	Local    netip.AddrPort `json:"local"`
	Remote   netip.AddrPort `json:"remote"`
	Tunnel   string         `json:"tunnel"`
	Standing Standing       `json:"standing"`
	Why      string         `json:"why,omitempty"`
	Ended    bool           `json:"ended,omitempty"`
	Cut      bool           `json:"cut,omitempty"` // it was ended for it
	Account  *Account       `json:"account,omitempty"`
	Receipt  *Receipt       `json:"receipt,omitempty"`
}

// Numbers of protocols of IP (IPPROTO_TCP, IPPROTO_UDP).
const (
	TCP = 6
	UDP = 17
)

// Subject is what the verdict is about; "": all that goes by the tunnel.
func (v *Verdict) Subject() string {
	switch {
	case !v.Remote.IsValid():
		return ""
	case v.Connected():
		return fmt.Sprintf("connection %s to %s", v.Local, v.Remote)
	case v.Protocol == UDP:
		return fmt.Sprintf("datagrams to %s", v.Remote)
	}
	return fmt.Sprintf("packets of IP protocol %d to %s", v.Protocol, v.Remote.Addr())
}

// Connected tells whether the verdict is about a TCP connection, as all are of releases that do not name the protocol.
func (v *Verdict) Connected() bool {
	return v.Local.IsValid() && (v.Protocol == TCP || v.Protocol == 0)
}

// Receipt is the gateway's count of a connection, by IP: headers are included.
type Receipt struct {
	Serial      uint64        `json:"serial"`
	Age         time.Duration `json:"age"` // since it was read
	Bytes       uint64        `json:"bytes"`
	Packets     uint64        `json:"packets"`
	BytesBack   uint64        `json:"bytes_back"`
	PacketsBack uint64        `json:"packets_back"`
	Final       bool          `json:"final,omitempty"` // the gateway has forgotten the connection
}
