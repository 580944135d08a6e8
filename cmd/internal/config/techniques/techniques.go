// Package techniques reads attack patterns from TOML, and has those that every node starts with. It is apart from the
// reader of config.toml because shims read that and have no use for these. Its functions may be called from any goroutine.
package techniques

import (
	_ "embed"
	"fmt"
	"sync"
	"time"

	"github.com/BurntSushi/toml"

	"forefend.dev/forefend/predictor/threat"
)

// shipped are the attack patterns that every node has, mapped to MITRE ATT&CK's techniques for containers.
//
//go:embed techniques.toml
var shipped []byte

// Shipped returns them. They are not to be written to.
var Shipped = sync.OnceValue(func() []threat.Technique {
	list, err := Parse("techniques.toml", shipped)
	if err != nil {
		panic(err) // a test reads them
	}
	return list
})

// techniqueFile is the form of a file of attack patterns.
type techniqueFile struct {
	Technique []struct {
		ID       string     `toml:"id"`
		Name     string     `toml:"name"`
		Severity float64    `toml:"severity"`
		Rule     []ruleFile `toml:"rule"`
	} `toml:"technique"`
}

type ruleFile struct {
	Confidence   float64           `toml:"confidence"`
	Why          string            `toml:"why"`
	Syscalls     []string          `toml:"syscalls"`
	Any          []string          `toml:"any"`
	Denied       []string          `toml:"denied"`
	Executables  []string          `toml:"executables"`
	Destinations []string          `toml:"destinations"`
	AtLeast      map[string]uint64 `toml:"at_least"`
	Hosts        int               `toml:"hosts"`
	Ports        int               `toml:"ports"`
	Sequence     []string          `toml:"sequence"`
	Within       string            `toml:"within"`
	Unless       []string          `toml:"unless"`
}

// Parse reads a file of attack patterns. It is threat.Options.ParseTechniques: that package knows no TOML.
// Unknown keys are errors; whether a pattern makes sense is threat.NewPatterns's to say.
func Parse(file string, data []byte) ([]threat.Technique, error) {
	var in techniqueFile
	meta, err := toml.Decode(string(data), &in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%s: unknown key %s", file, unknown[0])
	}
	var out []threat.Technique
	for i, t := range in.Technique {
		technique := threat.Technique{ID: t.ID, Name: t.Name, Severity: t.Severity, Source: fmt.Sprintf("%s, technique %d", file, i+1)}
		for _, r := range t.Rule {
			rule := threat.Rule{
				Confidence: r.Confidence, Why: r.Why, Syscalls: r.Syscalls, Any: r.Any, Denied: r.Denied, Executables: r.Executables,
				Destinations: r.Destinations, AtLeast: r.AtLeast, Hosts: r.Hosts, Ports: r.Ports, Sequence: r.Sequence, Unless: r.Unless,
			}
			if r.Within != "" {
				if rule.Within, err = time.ParseDuration(r.Within); err != nil {
					return nil, fmt.Errorf("%s: technique %.20q: within: %w", file, t.ID, err)
				}
			}
			technique.Rules = append(technique.Rules, rule)
		}
		out = append(out, technique)
	}
	return out, nil
}
