package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/eval"
	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
)

// app is what every command works with. It is made once by main and read only.
type app struct {
	stdout, stderr io.Writer
	now            func() time.Time
	configPath     string // --config
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, a *app, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errQuiet) {
		page := output.NewPage(a.stderr)
		for i, line := range strings.Split(err.Error(), "\n") {
			lead := ""
			if i == 0 {
				lead = "forefend: "
			}
			page.Item(0, lead, len("forefend: "), line)
		}
	}
	return exitCode(err)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "forefend",
		Short: "What containers may do, why, and what they did",
		Long: "Forefend decides, before a container's first instruction, what it will need and what it\n" +
			"must not do, runs it inside exactly that, and learns from every run.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.configPath == "" {
				return nil
			}
			// What this process starts must mean the same configuration.
			return os.Setenv(config.EnvPath, a.configPath)
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().StringVar(&a.configPath, "config", "", "config `file` (default: FOREFEND_CONFIG, else "+config.DefaultPath+")")
	root.AddCommand(newPsCommand(a), newExplainCommand(a), newHistoryCommand(a), newEventsCommand(a), newSetCommand(a), newUnsetCommand(a), newResetCommand(a), newRollbackCommand(a), newAgentCommand(a), newFlowsCommand(a),
		newScanCommand(a), newProfileCommand(a), newPolicyCommand(a), newDecideCommand(a), newThreatCommand(a), newTunnelCommand(a), newReplayCommand(a),
		newDoctorCommand(a), newDaemonCommand(a), newTunneldCommand(a), newGatewayCommand(a), eval.Command(), newVersionCommand(a), newCompletionCommand(a))
	root.AddCommand(newActionCommands(a)...)
	asUsage(root)
	fitHelp(root)
	return root
}

// config reads the configuration this command line means.
func (a *app) config() (*config.Config, error) {
	if a.configPath != "" {
		return config.Load(a.configPath)
	}
	return config.FromEnv()
}

// configFile is the file config reads, for messages.
func (a *app) configFile() string {
	return cmp.Or(a.configPath, os.Getenv(config.EnvPath), config.DefaultPath)
}

// noCommand refuses arguments of a command that only has subcommands.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	message := fmt.Sprintf("unknown command %q", args[0])
	cmd.SuggestionsMinimumDistance = 2 // cobra's own default applies only to its own check
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		message += fmt.Sprintf(", did you mean %s?", strings.Join(s, " or "))
	}
	return errors.New(message)
}
