package api

import (
	"context"
	"time"

	"github.com/containerd/ttrpc"
)

// RulesName is the ttrpc service of the rules of egress in the daemon's store.
const RulesName = "forefend.rules.v1.Bucket"

// RuleBucket keeps versions of the rules of egress; the newest is in force. Errors are errdefs kinds.
type RuleBucket interface {
	// Push makes a version of files, and puts it in force, or changes nothing.
	Push(context.Context, RulePush) (RuleChange, error)
	// Rollback makes a version with the files of an older one.
	Rollback(context.Context, RuleRollback) (RuleChange, error)
	// Versions lists what is kept.
	Versions(context.Context) (RuleVersions, error)
	// Pull returns the files of a version.
	Pull(context.Context, RulePull) (RuleFiles, error)
}

// RulePush is all the files of a version.
type RulePush struct {
	Files  map[string][]byte `json:"files"` // by their names, without a directory
	Author string            `json:"author"`
	Reason string            `json:"reason,omitempty"`
}

// RuleRollback asks for the rules of an older version.
type RuleRollback struct {
	To     uint64 `json:"to,omitempty"` // 0: the one before the one in force
	Author string `json:"author"`
	Reason string `json:"reason,omitempty"`
}

// RuleVersion is one version, without its files.
type RuleVersion struct {
	Number uint64    `json:"version"` // it only grows; 0: none
	Time   time.Time `json:"time"`
	Author string    `json:"author"`
	Reason string    `json:"reason,omitempty"`
	From   uint64    `json:"from,omitempty"` // the version whose files these are, after a rollback
	Digest string    `json:"digest"`         // of names and files: "sha256:…"
	Files  int       `json:"files"`
	Rules  int       `json:"rules"`
	Tests  int       `json:"tests"`
	Bytes  int       `json:"bytes"`
}

// RuleChange is what is in force after a RulePush or a RuleRollback.
type RuleChange struct {
	RuleVersion
	// Unchanged says that these rules were in force already: no version was made.
	Unchanged bool   `json:"unchanged,omitempty"`
	Epoch     uint64 `json:"epoch"`
}

// RuleVersions are the versions that are kept, the newest first.
type RuleVersions struct {
	InForce  uint64        `json:"in_force"` // 0: none
	Versions []RuleVersion `json:"versions"`
	Warning  string        `json:"warning,omitempty"` // why that is not what it should be
}

// RulePull asks for the files of a version.
type RulePull struct {
	Version uint64 `json:"version,omitempty"` // 0: the one in force
}

// RuleFiles is a version with its files.
type RuleFiles struct {
	RuleVersion
	Contents map[string][]byte `json:"contents"`
}

// RegisterRules serves b on server.
func RegisterRules(server *ttrpc.Server, b RuleBucket) {
	server.RegisterService(RulesName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Push":     method(b.Push),
		"Rollback": method(b.Rollback),
		"Versions": method(func(ctx context.Context, _ none) (RuleVersions, error) { return b.Versions(ctx) }),
		"Pull":     method(b.Pull),
	}})
}

var _ RuleBucket = (*Client)(nil)

// Push implements RuleBucket.
func (c *Client) Push(ctx context.Context, r RulePush) (RuleChange, error) {
	return callOf[RulePush, RuleChange](ctx, c.ttrpc, RulesName, "Push", r)
}

// Rollback implements RuleBucket.
func (c *Client) Rollback(ctx context.Context, r RuleRollback) (RuleChange, error) {
	return callOf[RuleRollback, RuleChange](ctx, c.ttrpc, RulesName, "Rollback", r)
}

// Versions implements RuleBucket.
func (c *Client) Versions(ctx context.Context) (RuleVersions, error) {
	return callOf[none, RuleVersions](ctx, c.ttrpc, RulesName, "Versions", none{})
}

// Pull implements RuleBucket.
func (c *Client) Pull(ctx context.Context, r RulePull) (RuleFiles, error) {
	return callOf[RulePull, RuleFiles](ctx, c.ttrpc, RulesName, "Pull", r)
}
