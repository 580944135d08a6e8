package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/bucket"
	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config/rules"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// pushTimeout bounds a call that has the daemon compile rules and run their tests.
const pushTimeout = 2 * time.Minute

func newPolicyPushCommand(a *app) *cobra.Command {
	var reason string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "push DIR",
		Short: "Put the egress rules of a directory into the daemon's store, and in force",
		Long: "Checks the rule files of DIR, runs their tests, and has the daemon keep them as the next version of\n" +
			"its rules. They are in force at once, for every node that asks this daemon, and after it is started\n" +
			"again. If anything is wrong with them, nothing is changed. The daemon's config.toml must have\n" +
			"rules = \"store\" in [egress].",
		Example: "  forefend policy push rules --reason 'ticket 4711'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pushRules(cmd.Context(), args[0], reason, asJSON)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, in `words` that versions and events repeat")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) pushRules(ctx context.Context, dir, reason string, asJSON bool) error {
	files, err := a.checkedRules(dir, asJSON)
	if err != nil {
		return err
	}
	return a.changeRules(ctx, asJSON, func(ctx context.Context, b api.RuleBucket) (api.RuleChange, error) {
		return b.Push(ctx, api.RulePush{Files: files, Author: author(), Reason: reason})
	})
}

// checkedRules reads the rules of a directory that are fit to be pushed, by their names in it. What is wrong is printed as check and
// test do.
func (a *app) checkedRules(dir string, asJSON bool) (map[string][]byte, error) {
	switch info, err := os.Stat(dir); {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is a file: a version is all the rules there are, so name their directory", dir)
	}
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	read, err := rules.Read(dir)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte, len(read))
	for path, text := range read {
		files[filepath.Base(path)] = text
	}
	if err := bucket.Check(files); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	d, err := rules.Compile(dir, read, 0, ruleOptions(cfg))
	if err != nil {
		found, err := problemsOf(err)
		if err != nil {
			return nil, err
		}
		return nil, a.showProblems(dir, found, asJSON)
	}
	if result := a.runTests(d); !result.OK {
		return nil, a.showTests(result, asJSON)
	}
	return files, nil
}

// changeRules has the daemon make a version, and shows it.
func (a *app) changeRules(ctx context.Context, asJSON bool, change func(context.Context, api.RuleBucket) (api.RuleChange, error)) error {
	var made api.RuleChange
	err := a.withBucket(ctx, func(ctx context.Context, b api.RuleBucket) (err error) {
		ctx, cancel := context.WithTimeout(ctx, pushTimeout)
		defer cancel()
		made, err = change(ctx, b)
		return err
	})
	switch {
	case err != nil:
		return err
	case asJSON:
		return output.JSON(a.stdout, made)
	}
	page := output.NewPage(a.stdout)
	if made.Unchanged {
		page.Line(0, fmt.Sprintf("Version %d, which is in force, has these rules already: nothing was changed.", made.Number))
		return page.Err()
	}
	from := ""
	if made.From > 0 {
		from = fmt.Sprintf(", with the rules of version %d", made.From)
	}
	page.Line(0, fmt.Sprintf("Version %d is in force%s: %s in %s, %s passed.", made.Number, from, plural(made.Rules, "rule"), plural(made.Files, "file"), plural(made.Tests, "test")))
	return page.Err()
}

// withBucket calls do with the rules in the daemon's store.
func (a *app) withBucket(ctx context.Context, do func(context.Context, api.RuleBucket) error) error {
	err := a.withDaemon(ctx, func(ctx context.Context, daemon api.Orchestrator) error {
		b, ok := daemon.(api.RuleBucket)
		if !ok {
			return errdefs.ErrNotImplemented
		}
		return do(ctx, b)
	})
	if errdefs.IsNotImplemented(err) {
		return errors.New("the daemon is of an older release, which keeps no rules in its store: restart it (forefend daemon --takeover --detach)")
	}
	return err
}

// author names who runs the command, as versions and events show it.
func author() string { return cmp.Or(person(), fmt.Sprintf("uid %d", os.Getuid())) }

func newPolicyRollbackCommand(a *app) *cobra.Command {
	var reason string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rollback [VERSION]",
		Short: "Put the egress rules of an older version of the store in force again",
		Long: "Makes a new version with the rules of VERSION, by default the one before the one in force. They are\n" +
			"checked and tested as with `forefend policy push`. A rollback can be taken back in the same way.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := versionOf(args)
			if err != nil {
				return usage(cmd, err)
			}
			return a.changeRules(cmd.Context(), asJSON, func(ctx context.Context, b api.RuleBucket) (api.RuleChange, error) {
				return b.Rollback(ctx, api.RuleRollback{To: to, Author: author(), Reason: reason})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, in `words` that versions and events repeat")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// versionOf reads an argument that may be missing, which is 0.
func versionOf(args []string) (uint64, error) {
	if len(args) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a version: a number from 1", args[0])
	}
	return n, nil
}

func newPolicyVersionsCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "versions",
		Short: "List the versions of the egress rules in the daemon's store, the newest first",
		Long:  "Lists the versions of the egress rules that the daemon keeps in its store, the newest first, and which\nis in force.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var found api.RuleVersions
			err := a.withBucket(cmd.Context(), func(ctx context.Context, b api.RuleBucket) (err error) {
				found, err = ask(ctx, b.Versions)
				return err
			})
			switch {
			case err != nil:
				return err
			case asJSON:
				return output.JSON(a.stdout, found)
			}
			return a.printVersions(found)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printVersions(found api.RuleVersions) error {
	page := output.NewPage(a.stdout)
	if len(found.Versions) > 0 {
		t := output.NewTable(output.Column{Name: "VERSION", Right: true}, output.Column{Name: "MADE"}, output.Column{Name: "AUTHOR", Min: 6},
			output.Column{Name: "RULES", Right: true}, output.Column{Name: "TESTS", Right: true}, output.Column{Name: "DIGEST"},
			output.Column{Name: "STATE", Min: 8}, output.Column{Name: "REASON", Min: 6})
		for _, v := range found.Versions {
			var state []string
			if v.Number == found.InForce {
				state = append(state, "in force")
			}
			if v.From > 0 {
				state = append(state, fmt.Sprintf("as %d", v.From))
			}
			t.Row(fmt.Sprint(v.Number), output.Time(v.Time), v.Author, fmt.Sprint(v.Rules), fmt.Sprint(v.Tests), shortDigest(v.Digest), strings.Join(state, ", "), v.Reason)
		}
		page.Table(t)
	}
	if found.Warning != "" {
		page.Item(0, "", 0, found.Warning)
	}
	return page.Err()
}

// shortDigest is enough of a digest to tell versions apart.
func shortDigest(s string) string {
	s = strings.TrimPrefix(s, "sha256:")
	return s[:min(len(s), 12)]
}

func newPolicyPullCommand(a *app) *cobra.Command {
	var version uint64
	var force bool
	cmd := &cobra.Command{
		Use:   "pull DIR",
		Short: "Write the egress rules of the daemon's store into a directory",
		Long: "Writes the rule files of the version in force, or of another one, into DIR, which is made if need be.\n" +
			"Where DIR has other rule files, or others of the same names, it changes nothing, unless --force says\n" +
			"to replace them all.",
		Example: "  forefend policy pull rules\n  forefend policy pull --version 3 /tmp/rules-3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var found api.RuleFiles
			err := a.withBucket(cmd.Context(), func(ctx context.Context, b api.RuleBucket) (err error) {
				found, err = ask(ctx, func(ctx context.Context) (api.RuleFiles, error) {
					return b.Pull(ctx, api.RulePull{Version: version})
				})
				return err
			})
			if err != nil {
				return err
			}
			return a.writeRules(args[0], found, force)
		},
	}
	cmd.Flags().Uint64Var(&version, "version", 0, "the version with this `NUMBER` (default: the one in force)")
	cmd.Flags().BoolVar(&force, "force", false, "replace the rule files of DIR, and remove those that the version has not")
	return cmd
}

// writeRules makes a directory's rule files those of a version.
func (a *app) writeRules(dir string, v api.RuleFiles, force bool) error {
	if err := bucket.Check(v.Contents); err != nil { // a name could lead elsewhere
		return fmt.Errorf("the daemon's answer makes no sense: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	there, err := rules.Read(dir)
	if err != nil {
		return err
	}
	var others []string
	for path, text := range there {
		name := filepath.Base(path)
		if want, has := v.Contents[name]; !has || string(want) != string(text) {
			others = append(others, name)
		}
	}
	if len(others) > 0 && !force {
		return fmt.Errorf("%s has %s that version %d has not, or has otherwise (%s): nothing was written; --force replaces them",
			dir, plural(len(others), "rule file"), v.Number, sample(others))
	}
	for name, text := range v.Contents {
		if err := writeWhole(filepath.Join(dir, name), 0o644, bytes.NewReader(text)); err != nil {
			return err
		}
	}
	for _, name := range others {
		if _, has := v.Contents[name]; !has {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	page := output.NewPage(a.stdout)
	page.Item(0, "", 0, fmt.Sprintf("%s has the %s of version %d, of %s.", dir, plural(len(v.Contents), "file"), v.Number, v.Author))
	return page.Err()
}

// sample lists the first few names.
func sample(names []string) string {
	const most = 5
	slices.Sort(names)
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
