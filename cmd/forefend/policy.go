package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
)

// checkResult is what `forefend policy check --json` prints.
type checkResult struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Problems []config.Problem `json:"problems"`
}

func newPolicyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Work with policy files and the rules of egress",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheckCommand(a), newPolicyTestCommand(a), newPolicyAuditCommand(a),
		newPolicyPushCommand(a), newPolicyPullCommand(a), newPolicyVersionsCommand(a), newPolicyRollbackCommand(a))
	return cmd
}

func newPolicyCheckCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [FILE|DIR]",
		Short: "Check config.toml or egress rules: every problem with its line and how to mend it",
		Long: "Checks a config file together with the rules it names, a file of egress rules, or a directory of\n" +
			"them; without an argument the configuration in use. Exits with 1 when there is any problem.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := a.configFile()
			if len(args) == 1 {
				file = args[0]
			}
			return a.checkPolicy(file, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) checkPolicy(file string, asJSON bool) error {
	found, err := a.findProblems(file)
	if err != nil {
		return err
	}
	return a.showProblems(file, found, asJSON)
}

// showProblems prints what is wrong with a file, and fails where something is.
func (a *app) showProblems(file string, found []config.Problem, asJSON bool) (err error) {
	result := checkResult{File: file, OK: len(found) == 0, Problems: append([]config.Problem{}, found...)}
	if asJSON {
		err = output.JSON(a.stdout, result)
	} else {
		err = a.printProblems(result)
	}
	if err == nil && !result.OK {
		err = errQuiet
	}
	return err
}

func (a *app) printProblems(result checkResult) error {
	page := output.NewPage(a.stdout)
	if result.OK {
		page.Item(0, "", 0, result.File+": in order")
		return page.Err()
	}
	for _, p := range result.Problems {
		message := p.Message
		if p.Key != "" {
			message = p.Key + ": " + message
		}
		page.Item(0, "", 0, p.Where()+": "+message)
		if p.Fix != "" {
			page.Item(4, "fix:", 9, p.Fix)
		}
	}
	page.Line(0, plural(len(result.Problems), "problem"))
	return page.Err()
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
