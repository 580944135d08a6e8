package flow

import "time"

// Class is decisions that are alike in the profile, the rules that applied and their version, and whose requests they were about.
type Class struct {
	Node     string    `json:"node,omitempty"` // the name of a node that asked; "": this node's own containers
	Workload string    `json:"workload"`
	Profile  Profile   `json:"profile"`
	Rules    []string  `json:"rules,omitempty"` // that applied, in order of their names
	Reason   string    `json:"reason"`          // of the last one
	Count    uint64    `json:"count"`           // decisions, not requests: whoever keeps a decision asks once
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	// RuleVersion is as in Decision.
	RuleVersion string `json:"rule_version,omitempty"`
}
