package main

import (
	"fmt"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/runtime/orchestrator/door"
)

// What the daemon's callers may hold of it (docs/limits.md, docs/decisions/0023).
// A shim has one connection and seldom more than two calls under way; one that was
// closed because it was idle is made again with the shim's next call.
const (
	maxConnections = 1024
	maxCallsOfOne  = 16
	maxMessage     = 4 << 20 // ttrpc's own
	maxWaiting     = 32 << 20
	maxCalls       = 64 // each may wait for its sources for the prediction budget
	maxLargeCalls  = 2
	largeFrom      = 64 << 10 // three times what a container with Docker's profile asks with
	maxFollowers   = 64       // Events calls that wait
	maxQueries     = 4
	maxAwaiting    = 128            // shims that wait for the first scan of an image
	maxAdjusting   = 32             // changes of running containers, each as long as its shim takes
	maxEpochs      = maxConnections // shims that wait for other rules of egress, one call each
	maxDeciding    = 8              // outbound requests, microseconds each
	maxPushing     = 1              // versions of rules, which are compiled and tested
	messageTime    = 10 * time.Second
	answerTime     = 10 * time.Second
)

// newDoor lets in who runs as the daemon does, and bounds what they hold.
func newDoor() *door.Door {
	queries := door.Class{Name: "queries", Turns: maxQueries}
	pushing := door.Class{Name: "pushing", Turns: maxPushing}
	return door.New(ttrpc.UnixSocketRequireSameUser(), door.Limits{
		Conns: maxConnections, CallsOfOne: maxCallsOfOne, Message: maxMessage, Waiting: maxWaiting,
		MessageTime: messageTime, AnswerTime: answerTime,
		Calls: door.Class{Turns: maxCalls}, Large: door.Class{Turns: maxLargeCalls}, LargeFrom: largeFrom,
		Classes: map[string]door.Class{
			"Events": {Name: "followers", Turns: maxFollowers},
			"Adjust": {Name: "adjusting", Turns: maxAdjusting},
			"Agent":  {Name: "agents", Turns: maxAdjusting}, // likewise each as long as its shim takes
			"Await":  {Name: "waiting", Turns: maxAwaiting},
			"Epoch":  {Name: "epochs", Turns: maxEpochs},
			"Decide": {Name: "deciding", Turns: maxDeciding},
			"Push":   pushing, "Rollback": pushing, "Versions": queries, "Pull": queries,
			"List": queries, "Profile": queries, "Explain": queries, "History": queries, "Status": {Name: "status", Turns: maxQueries},
		},
	})
}

// refusals says what callers were refused, for doctor.
func refusals(n door.Counts) []string {
	if n == (door.Counts{}) {
		return nil
	}
	return []string{fmt.Sprintf("connections of callers were closed: %d idle ones because there were too many, "+
		"%d that left a message unfinished or an answer unread, %d that did not speak the protocol", n.Idle, n.Slow, n.Invalid)}
}
