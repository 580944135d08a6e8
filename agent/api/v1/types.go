package v1

import (
	"encoding/json"
	"time"
)

// ServiceName is the ttrpc service an agent serves.
const ServiceName = "forefend.agent.v1.Agent"

// Version is what this code speaks, Oldest the oldest version it understands.
const (
	Version = 1
	Oldest  = 1
)

// The descriptors an agent starts with, beside the usual three.
const (
	ChannelFD = 3 // its end of the socketpair
	KeyFD     = 4 // a sealed memfd with the channel's key
)

// The first bytes of an agent, before any call: HelloMagic and its version. They say that it runs and holds the key.
const (
	HelloMagic = "forefend-agent/"
	HelloSize  = len(HelloMagic) + 1
)

// HandshakeRequest is the first call. Before it the agent opens no socket: the shim makes it once the agent is in its
// cgroup.
type HandshakeRequest struct {
	Version int    `json:"version"`
	Oldest  int    `json:"oldest"`
	Name    string `json:"name"` // of the container, for the agent's messages
	// Notify is the name of the abstract socket, without its "@", on which applications may speak; empty: none.
	Notify string `json:"notify,omitempty"`
}

// HandshakeResponse is what the agent is and finds.
type HandshakeResponse struct {
	Version      int      `json:"version"`
	Build        string   `json:"build,omitempty"`
	PID          int      `json:"pid"`
	UID          int      `json:"uid"`
	Kernel       string   `json:"kernel"` // uname's release
	Capabilities []string `json:"capabilities"`
	Dumpable     bool     `json:"dumpable"`
	NoNewPrivs   bool     `json:"no_new_privileges"`
	Seccomp      bool     `json:"seccomp"`
	Features     []string `json:"features"`           // what works here: "sock_diag", "notify"
	Degraded     []string `json:"degraded,omitempty"` // what does not, and why
}

// ApplyRequest asks to put settings in force. All of a dimension takes effect, or nothing of it.
type ApplyRequest struct {
	Revision   int         `json:"revision"` // of the decision it follows from; it never goes back
	Dimensions []Dimension `json:"dimensions"`
}

// Dimension is one side of a policy as the agent applies it.
type Dimension struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// The dimensions an agent knows.
const (
	DimensionNotify = "notify" // "on" or "off": whether application messages are taken
	DimensionWatch  = "watch"  // how often sockets are looked at when nothing changes, a duration; "0s": not at all
)

// ApplyResponse has one result for each dimension asked for.
type ApplyResponse struct {
	Revision int      `json:"revision"`
	Results  []Result `json:"results"`
}

// Result is what became of one dimension: the words of api.Result of the orchestrator.
type Result struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// What became of a dimension.
const (
	Applied   = "applied"
	Unchanged = "unchanged"
	Refused   = "refused"
)

// DumpRequest asks for the sockets of the network namespace.
type DumpRequest struct {
	Limit int `json:"limit,omitempty"` // connections; 0: 1000, which is also the most
}

// DumpResponse is what was there at one moment.
type DumpResponse struct {
	Listening   []Socket `json:"listening"`
	Connections []Socket `json:"connections"`
	Left        int      `json:"left,omitempty"` // connections beyond the limit
}

// Socket is one socket as the kernel tells of it.
type Socket struct {
	Protocol string `json:"protocol"` // tcp, tcp6, udp, udp6
	State    string `json:"state"`    // of TCP: LISTEN, ESTABLISHED, …; of UDP: OPEN or CONNECTED
	Local    string `json:"local"`    // address:port
	Remote   string `json:"remote,omitempty"`
	UID      uint32 `json:"uid"` // as the host counts
	Inode    uint32 `json:"inode,omitempty"`
	Cgroup   uint64 `json:"cgroup,omitempty"` // id of the v2 cgroup it was made in
}

// EventsRequest asks for events after a sequence number. The answer is held until there is one or Wait has passed.
type EventsRequest struct {
	After uint64        `json:"after"`
	Wait  time.Duration `json:"wait,omitempty"`
}

// EventsResponse are events in order, at most MaxEvents; Next is the After of the next request.
type EventsResponse struct {
	Events []Event `json:"events,omitempty"`
	Next   uint64  `json:"next"`
	Lost   uint64  `json:"lost,omitempty"` // events that were dropped since the last answer: too many at once
}

// MaxEvents is how many events one answer carries, and how many wait in an agent.
const MaxEvents = 128

// Kinds of events.
const (
	EventListening = "listening" // a socket listens that did not
	EventClosed    = "closed"    // a listening socket is gone
	EventReady     = "ready"     // READY=1 of sd_notify(3)
	EventReloading = "reloading" // RELOADING=1
	EventStopping  = "stopping"  // STOPPING=1
	EventStatus    = "status"    // STATUS=…
	EventAsked     = "asked"     // FOREFEND_REQUEST=…: the application asks for a change of its policy
	EventRefused   = "refused"   // messages that were not taken: too large, too many, malformed
)

// Event is one thing that happened in the network namespace.
type Event struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"`
	Socket *Socket   `json:"socket,omitempty"`
	// PID, UID and GID are the sender's of an application message, as the kernel says and the host counts.
	PID int `json:"pid,omitempty"`
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
	// Text is a status line, or why messages were refused.
	Text string `json:"text,omitempty"`
	// Asked are the settings of an EventAsked: names and values of annotations.
	Asked map[string]string `json:"asked,omitempty"`
	Count int               `json:"count,omitempty"` // of messages refused
}

// HealthResponse is how the agent is.
type HealthResponse struct {
	Revision   int           `json:"revision"`
	Uptime     time.Duration `json:"uptime"`
	Goroutines int           `json:"goroutines"`
	Files      int           `json:"files"`  // open descriptors
	Memory     int64         `json:"memory"` // bytes from the kernel, as the Go runtime counts
	CPU        time.Duration `json:"cpu"`
	Watch      string        `json:"watch"` // how often sockets are looked at now
	Events     uint64        `json:"events"`
}

// InterceptArg is the argument with which an agent is started that is to intercept.
const InterceptArg = "intercept"

// InterceptRequest has the agent take the outbound connections of its network namespace. Asked again, it changes how requests are
// understood. The settings are the interceptor's own, not this contract's.
type InterceptRequest struct {
	Settings json.RawMessage `json:"settings,omitempty"`
}

// InterceptResponse says where connections are to be led.
type InterceptResponse struct {
	Port uint16 `json:"port"` // on loopback, of IPv4 and IPv6
}

// ForgetRequest has decisions of before an epoch count no more.
type ForgetRequest struct {
	Epoch uint64 `json:"epoch"`
}

// FlowsResponse are the connections that are intercepted now, and what was counted of all since the agent began, in the interceptor's
// own words.
type FlowsResponse struct {
	Flows    json.RawMessage `json:"flows,omitempty"`
	Counters json.RawMessage `json:"counters,omitempty"`
}

// AccountsRequest asks what the interceptor counts of connections that gateways count, too: after so many had ended, and of those that live
// after one, as the last answer said.
type AccountsRequest struct {
	Next uint64 `json:"next,omitempty"`
	Live uint64 `json:"live,omitempty"`
}

// AccountsResponse is the answer, in the interceptor's own words.
type AccountsResponse struct {
	Accounts json.RawMessage `json:"accounts,omitempty"`
}

// AsksRequest waits until the agent has something to ask, for at most so long.
type AsksRequest struct {
	Wait time.Duration `json:"wait,omitempty"`
}

// AsksResponse is what it asks, at most MaxAsks.
type AsksResponse struct {
	Asks []Ask `json:"asks,omitempty"`
}

// MaxAsks is how many questions of an agent may be open at once, and MaxAsk how long one may be, in bytes.
const (
	MaxAsks = 64
	MaxAsk  = 32 << 10
)

// MaxMany is how many decisions may be asked for with one question.
const MaxMany = 128

// Ask is one question of the agent's, to be answered by its number. Who asks has waited for a request of a container's: it is a claim.
type Ask struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method"`
	Body   json.RawMessage `json:"body"`
}

// The questions.
const (
	AskDecide  = "decide"      // flow.Context and its token, answered by flow.Decision
	AskMany    = "decide-many" // flow.Many of one container, at most MaxMany, answered by flow.Answers; who gets none asks about it alone
	AskWay     = "way"         // flow.Profile and a user, answered by a tunnel
	AskProcess = "process"     // the ends of a connection, answered by flow.Process

	// AskContainer asks for the container of a cgroup, where several share the network namespace.
	AskContainer = "container"

	// AskContacts tells how often destinations such as "tcp/www.example.com:443" were let out since the last time, and by which container; the
	// answer is empty.
	AskContacts = "contacts"
)

// AnswerRequest answers a question. One that nobody waits for any more is forgotten.
type AnswerRequest struct {
	ID    uint64          `json:"id"`
	Body  json.RawMessage `json:"body,omitempty"`
	Error string          `json:"error,omitempty"` // why there is no answer
}
