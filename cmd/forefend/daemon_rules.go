package main

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/cmd/forefend/bucket"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// ruleBucket is the rules in the store, or what says why there are none.
func (d *daemon) ruleBucket() api.RuleBucket {
	if d.rules != nil {
		return d.rules
	}
	return noBucket{d.cfg.Egress}
}

// ruleWarnings says what is wrong with the rules in the store, for doctor.
func (d *daemon) ruleWarnings() []string {
	if d.rules == nil || d.rules.Warning() == "" {
		return nil
	}
	return []string{d.rules.Warning()}
}

// storedEvent tells of other rules from the store, and of whom they are.
func storedEvent(c bucket.Change) api.Event {
	v := c.Version
	e := api.Event{Time: time.Now(), Kind: api.EventRules, Fields: map[string]string{"epoch": fmt.Sprint(c.Epoch)}}
	if v.Number > 0 {
		e.Fields["version"], e.Fields["author"], e.Fields["digest"] = fmt.Sprint(v.Number), v.Author, v.Digest
		if v.Reason != "" {
			e.Fields["reason"] = v.Reason
		}
	}
	switch {
	case c.Began && c.Warning != "":
		e.Message = c.Warning
	case c.Began:
		e.Message = fmt.Sprintf("egress rules of the store: version %d by %s, %s in force", v.Number, v.Author, plural(v.Rules, "rule"))
	case v.From > 0:
		e.Message = fmt.Sprintf("%s went back to version %d of the egress rules, as version %d: %s in force", v.Author, v.From, v.Number, plural(v.Rules, "rule"))
		e.Fields["from"] = fmt.Sprint(v.From)
	default:
		e.Message = fmt.Sprintf("%s pushed version %d of the egress rules: %s in force", v.Author, v.Number, plural(v.Rules, "rule"))
	}
	if !c.Began && v.Reason != "" {
		e.Message += ": " + v.Reason
	}
	if c.Warning != "" {
		e.Fields["error"] = "true"
		if !c.Began {
			e.Message += " (" + c.Warning + ")"
		}
	}
	return e
}

// noBucket answers where the rules are not in the store. It implements api.RuleBucket.
type noBucket struct{ egress config.Egress }

func (n noBucket) refuse() error {
	const instead = `rules = "store" in [egress] of the daemon's config.toml`
	switch e := n.egress; {
	case e.PDP == config.PDPRemote:
		return fmt.Errorf("the rules are those of %s, which decides for this node: push them there: %w", e.Remote.Address, errdefs.ErrFailedPrecondition)
	case e.Rules != "":
		return fmt.Errorf("the rules in force are the files of %s: edit them there, or write %s: %w", e.Rules, instead, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("the daemon decides about no outbound requests: write %s: %w", instead, errdefs.ErrFailedPrecondition)
}

// Push implements api.RuleBucket.
func (n noBucket) Push(context.Context, api.RulePush) (api.RuleChange, error) {
	return api.RuleChange{}, n.refuse()
}

// Rollback implements api.RuleBucket.
func (n noBucket) Rollback(context.Context, api.RuleRollback) (api.RuleChange, error) {
	return api.RuleChange{}, n.refuse()
}

// Versions implements api.RuleBucket.
func (n noBucket) Versions(context.Context) (api.RuleVersions, error) {
	return api.RuleVersions{}, n.refuse()
}

// Pull implements api.RuleBucket.
func (n noBucket) Pull(context.Context, api.RulePull) (api.RuleFiles, error) {
	return api.RuleFiles{}, n.refuse()
}
