package api

import (
	"time"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// AdjustRequest asks to change the policy of a running container (docs/decisions/0050). Names and values are those of
// the annotations, without their prefix. All of it is one change: it is decided, or refused, as a whole.
type AdjustRequest struct {
	Version int         `json:"version"`
	Oldest  int         `json:"oldest,omitempty"` // see Understood; the client fills it in
	ID      workload.ID `json:"id"`

	Set   map[string]string `json:"set,omitempty"`
	Unset []string          `json:"unset,omitempty"` // what this author has set before; "syscalls/ptrace" is one member
	Reset bool              `json:"reset,omitempty"` // all that this author has set before, ahead of Set
	// Rollback takes back what was changed after that revision, as far as this author changed it; 0: nothing.
	Rollback int `json:"rollback,omitempty"`

	// Author is Operator, Request (the application itself) or Prediction; Source and Reason say who and why in words.
	Author policy.Author `json:"author"`
	Source string        `json:"source,omitempty"`
	Reason string        `json:"reason,omitempty"`

	// Reclaim makes room for a memory limit below what is in use before it is set.
	Reclaim bool `json:"reclaim,omitempty"`
	// Held says why all growth above a predicted memory limit is anomalous from now on, "" that it no longer is; nil: as before.
	// It is a prediction's to say.
	Held *string `json:"held,omitempty"`
	// DryRun decides and applies nothing.
	DryRun bool `json:"dry_run,omitempty"`
	// Brief asks for no more of the decision in force than its revision and whom it is about.
	Brief bool `json:"brief,omitempty"`

	// Action is done to the container instead of a change of its policy. A request has one of the two.
	Action Action `json:"action,omitempty"`
}

// AdjustResponse is the decision in force after an AdjustRequest, and what became of each dimension. Where nothing of the
// request is in force it has the revision of before.
type AdjustResponse struct {
	Decision Decision `json:"decision"`
	Results  []Result `json:"results,omitempty"`
}

// AdaptRequest asks a shim to put another decision in force.
type AdaptRequest struct {
	Version int         `json:"version"`
	Oldest  int         `json:"oldest,omitempty"` // see Understood; the client fills it in
	ID      workload.ID `json:"id"`
	Run     string      `json:"run"`
	Before  int         `json:"before"`         // the revision that After was made from
	Since   time.Time   `json:"since,omitzero"` // of the change that led to Before: two may have come to one number; zero: not looked at
	After   Decision    `json:"after"`
	Reclaim bool        `json:"reclaim,omitempty"`
	// Brief says that After has no more than what differs from Before: of the policy the dimensions Only, with them the last of Changes,
	// Revision, Airbag, Seccomp and Table. It is for shims that say in their records that they understand it.
	Brief bool               `json:"brief,omitempty"`
	Only  []policy.Dimension `json:"only,omitempty"`

	// Action is done instead; Before and After are not looked at. Author, Source and Reason are those of the AdjustRequest.
	Action Action        `json:"action,omitempty"`
	Author policy.Author `json:"author,omitempty"`
	Source string        `json:"source,omitempty"`
	Reason string        `json:"reason,omitempty"`
}

// AdaptResponse is what a shim has in force after an AdaptRequest.
type AdaptResponse struct {
	// Stale says that another revision than AdaptRequest.Before was in force: nothing was done, Decision is that one.
	Stale    bool     `json:"stale,omitempty"`
	Decision Decision `json:"decision,omitzero"`
	Results  []Result `json:"results,omitempty"`
	// AsAsked answers a brief request of which all is in force that it wants: Decision is left out.
	AsAsked bool `json:"as_asked,omitempty"`
}

// Changed is when the last change of the running container was made; zero: there was none.
func (d *Decision) Changed() time.Time {
	if n := len(d.Changes); n > 0 {
		return d.Changes[n-1].Time
	}
	return time.Time{}
}

// What became of one dimension of a change.
const (
	ResultApplied   = "applied"
	ResultUnchanged = "unchanged" // the merge came to what was in force already
	ResultRefused   = "refused"   // it cannot be done, and nothing was tried
	ResultFailed    = "failed"    // it was tried, and undone
	ResultPlanned   = "planned"   // of a dry run: it would be tried
)

// Result is what became of one dimension of a change.
type Result struct {
	Lever   string        `json:"lever"` // resources, syscalls, network, …
	Status  string        `json:"status"`
	Changed []string      `json:"changed,omitempty"` // "memory 64 MiB -> 128 MiB"
	Reason  string        `json:"reason,omitempty"`
	Took    time.Duration `json:"took"`
}

// Change is one change of a running container's policy, as its decision remembers it.
type Change struct {
	Revision int           `json:"revision"`
	Time     time.Time     `json:"time"`
	Author   policy.Author `json:"author"`
	Source   string        `json:"source"`
	Reason   string        `json:"reason,omitempty"`
	Changed  []string      `json:"changed,omitempty"`
	Results  []Result      `json:"results,omitempty"`
	// Undo is what this author had claimed of each key that the change claims anew, for Rollback.
	Undo []Standing `json:"undo,omitempty"`
}

// Standing is what an author claims of one key; without a value, nothing.
type Standing struct {
	Key   policy.Key    `json:"key"`
	Value *policy.Value `json:"value,omitempty"`
	policy.Origin
}
