package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/export"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

func newProfileExportCommand(a *app) *cobra.Command {
	var image imageQuestion
	var form, container string
	long := "Prints what was learned of a workload in a form that others read:\n\n"
	for _, f := range export.Forms {
		long += fmt.Sprintf("  %-14s %s\n", f.Name, f.About)
	}
	cmd := &cobra.Command{
		Use:   "export --format FORMAT IMAGE [-- COMMAND [ARG...]]",
		Short: "Print what was learned of an image's workload, as others read it",
		Long:  long + "\nIt says from how many runs it follows, and how likely the next one departs from it (docs/exports.md).",
		Example: "  forefend profile export --format oci-seccomp docker.io/library/redis:7 > redis.json\n" +
			"  forefend profile export --format networkpolicy app:1 -- serve --port 80",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case !slices.ContainsFunc(export.Forms, func(f export.Form) bool { return f.Name == form }):
				return usage(cmd, fmt.Errorf("--format %q is not one of %s", form, export.Names()))
			case container != "" && len(args) > 0:
				return usage(cmd, errors.New("an image or --container, not both"))
			case container != "":
				args = []string{container}
			case len(args) == 0 || cmd.ArgsLenAtDash() == 0:
				return usage(cmd, errors.New("an image is needed"))
			case len(args) > 1 && cmd.ArgsLenAtDash() != 1:
				return usage(cmd, errors.New("the command comes after \"--\""))
			default:
				image.ref, image.args = args[0], args[1:]
			}
			return a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) error {
				d, err := a.decision(ctx, daemon, image, args)
				if err != nil {
					return err
				}
				text, err := export.Write(form, export.Learned{Image: d.Facts.Image.Name, Args: d.Facts.Args, Prediction: d.Prediction, Now: a.now()})
				if err != nil {
					return err
				}
				_, err = a.stdout.Write(text)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&form, "format", "", "one of "+export.Names())
	cmd.Flags().StringVar(&container, "container", "", "what was known of this `container`'s workload when it was created")
	cmd.Flags().StringVar(&image.namespace, "namespace", "", "containerd namespace of the image")
	return cmd
}
