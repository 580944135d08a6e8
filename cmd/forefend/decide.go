package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/bucket"
	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp"
)

// maxContext bounds the JSON of a context, in bytes.
const maxContext = 64 << 10

func newDecideCommand(a *app) *cobra.Command {
	var dir, context string
	var asJSON bool
	c := &cobra.Command{
		Use:   "decide --context JSON",
		Short: "Decide one outbound request by egress rules: profile, rules that apply, and why",
		Long: "Decides what the rules of a directory make of one request, without a daemon and without sending\n" +
			"anything. JSON is a flow context, as events and forefend flows print it, and may hold \"now\" and\n" +
			"\"load\" too; \"-\" reads it from standard input. What rules do not say is config.toml's [egress].",
		Example: `  forefend decide --rules /etc/forefend/rules --context '{"user": "admin", "user_proof": "token",
    "data": "confidential", "host": "pay.example.com", "destination": "192.0.2.7:443"}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if context == "" {
				return usage(cmd, errors.New("--context is needed"))
			}
			x, at, err := a.readContext(context)
			if err != nil {
				return usage(cmd, err)
			}
			d, err := a.loadRules(dir)
			if err != nil {
				return err
			}
			decision := d.Set.Decide(&x, at)
			if asJSON {
				return output.JSON(a.stdout, decision)
			}
			return a.printFlowDecision(decision)
		},
	}
	c.Flags().StringVar(&dir, "rules", "", "`directory` or file of rules (default: [egress] rules of config.toml)")
	c.Flags().StringVar(&context, "context", "", "the request, as `JSON`; \"-\": from standard input")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// readContext reads a request, and the moment of it.
func (a *app) readContext(text string) (flow.Context, pdp.Moment, error) {
	data := []byte(text)
	if text == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(os.Stdin, maxContext+1)); err != nil {
			return flow.Context{}, pdp.Moment{}, fmt.Errorf("read the context: %w", err)
		}
	}
	if len(data) > maxContext {
		return flow.Context{}, pdp.Moment{}, fmt.Errorf("the context has more than %d KiB", maxContext>>10)
	}
	var in struct {
		flow.Context
		Now  time.Time `json:"now"`
		Load int       `json:"load"` // percent
	}
	in.Now = a.now()
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return flow.Context{}, pdp.Moment{}, fmt.Errorf("the context is not what it has to be: %w", err)
	}
	return in.Context, pdp.Moment{Now: in.Now, Load: in.Load}, nil
}

// loadRules reads the rules of a path, "" for the configured ones, under the options of the configuration.
func (a *app) loadRules(path string) (*rules.Directory, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	if path == "" && cfg.Egress.Stored() {
		return storedRules(cfg)
	}
	if path = cmp.Or(path, cfg.Egress.Rules); path == "" {
		return nil, errors.New(`no rules: name a directory, or set rules = "/etc/forefend/rules" in [egress] of config.toml`)
	}
	return rules.Load(path, ruleOptions(cfg))
}

// storedRules reads the newest rules in the daemon's store, whether it runs or not.
func storedRules(cfg *config.Config) (*rules.Directory, error) {
	v, _, err := bucket.Peek(cfg.StoreDir()) // where there is none, there are no rules
	if err != nil {
		return nil, fmt.Errorf("egress rules: %w", err)
	}
	return bucket.Compile(v.Contents, v.Number, ruleOptions(cfg))
}

// ruleOptions are what holds where rules say nothing.
func ruleOptions(cfg *config.Config) pdp.Options {
	o := pdp.Options{Default: cfg.Egress.Default, Lookups: &cfg.Egress.Lookups, Data: cfg.Egress.Data}
	for n, i := range cfg.Egress.Inspect {
		o.Amend = append(o.Amend, pdp.Rule{
			Name: fmt.Sprintf("egress.inspect %d", n+1), Source: cfg.Path, When: fmt.Sprintf("risk >= %d", i.Risk), Profile: flow.Profile{Endpoint: i.Endpoint},
		})
	}
	return o
}

func (a *app) printFlowDecision(d flow.Decision) error {
	const lead = 12
	page := output.NewPage(a.stdout)
	page.Item(0, "profile", lead, profileText(d.Profile))
	page.Item(0, "because", lead, d.Reason)
	for i, m := range d.Matches {
		what := ""
		if i == 0 {
			what = "rules"
		}
		page.Item(0, what, lead, m.Rule+", "+m.Reason)
	}
	var fields []string
	for _, f := range d.Depends {
		fields = append(fields, string(f))
	}
	page.Item(0, "depends on", lead, cmp.Or(strings.Join(fields, ", "), "nothing"))
	page.Item(0, "holds", lead, holdsText(d.Valid))
	return page.Err()
}

func holdsText(d time.Duration) string {
	if d == 0 {
		return "until the rules change"
	}
	return "for " + d.String() + ", or until the rules change"
}

// profileText is a profile in words.
func profileText(p flow.Profile) string {
	if p.Deny {
		return "deny"
	}
	parts := []string{"encryption " + p.Encryption.String()}
	if p.Dedicated {
		parts = append(parts, "dedicated")
	}
	if p.Endpoint != "" {
		parts = append(parts, "endpoint "+p.Endpoint)
	}
	for _, r := range p.Rates {
		parts = append(parts, pdp.RateText(r))
	}
	if p.QoS != "" {
		parts = append(parts, "qos "+p.QoS)
	}
	return strings.Join(parts, ", ")
}
