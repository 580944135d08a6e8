package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/cmd/internal/config/rules"
)

// findProblems checks a config file, a rule file or a directory of rule files. A configuration is checked together with the
// rules that it names.
func (a *app) findProblems(path string) ([]config.Problem, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	asRules := info.IsDir()
	if !asRules {
		if asRules, err = config.IsRuleFile(path); err != nil {
			return nil, err
		}
	}
	if asRules {
		_, err := a.loadRules(path)
		return problemsOf(err)
	}
	found, err := config.Check(path)
	if err != nil || len(found) > 0 {
		return found, err
	}
	cfg, err := config.Load(path)
	if err != nil || cfg.Egress.Rules == "" {
		return nil, err
	}
	if cfg.Egress.Stored() {
		if _, err = storedRules(cfg); errors.Is(err, os.ErrPermission) {
			return nil, nil // the store is root's: others check the rest
		}
	} else {
		_, err = rules.Load(cfg.Egress.Rules, ruleOptions(cfg))
	}
	return problemsOf(err)
}

func problemsOf(err error) ([]config.Problem, error) {
	var found config.Problems
	if errors.As(err, &found) {
		return found, nil
	}
	return nil, err
}

// testResult is what `forefend policy test --json` prints.
type testResult struct {
	Rules string         `json:"rules"`
	OK    bool           `json:"ok"`
	Tests []rules.Result `json:"tests"`
}

func newPolicyTestCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test [DIR|FILE]",
		Short: "Run the [[test]] cases of egress rules: does each request get the profile it should?",
		Long: "Decides the request of each [[test]] of the rule files of DIR, or of [egress] rules, and compares.\n" +
			"Exits with 1 when one differs, or when the rules are not in order.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := ""
			if len(args) == 1 {
				path = args[0]
			}
			return a.testRules(path, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) testRules(path string, asJSON bool) error {
	d, err := a.loadRules(path)
	if err != nil {
		return err
	}
	return a.showTests(a.runTests(d), asJSON)
}

func (a *app) runTests(d *rules.Directory) testResult {
	result := testResult{Rules: d.Path, OK: true, Tests: append([]rules.Result{}, d.Test(a.now())...)}
	for _, t := range result.Tests {
		result.OK = result.OK && t.OK
	}
	return result
}

// showTests prints what became of tests, and fails where one does.
func (a *app) showTests(result testResult, asJSON bool) (err error) {
	if asJSON {
		err = output.JSON(a.stdout, result)
	} else {
		err = a.printTests(result)
	}
	if err == nil && !result.OK {
		err = errQuiet
	}
	return err
}

func (a *app) printTests(result testResult) error {
	page := output.NewPage(a.stdout)
	failed := 0
	for _, t := range result.Tests {
		if t.OK {
			page.Item(0, "ok", 6, t.Name)
			continue
		}
		failed++
		page.Item(0, "FAIL", 6, t.Source+": "+t.Name)
		for _, w := range t.Wrong {
			page.Item(6, "", 6, w)
		}
		page.Item(6, "", 6, t.Decision.Reason)
	}
	switch {
	case len(result.Tests) == 0:
		page.Line(0, "no [[test]] in "+result.Rules)
	case failed > 0:
		page.Line(0, plural(failed, "test")+" of "+plural(len(result.Tests), "test")+" failed")
	default:
		page.Line(0, plural(len(result.Tests), "test")+" passed")
	}
	return page.Err()
}
