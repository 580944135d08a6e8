package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/predictor/history"
)

func newExportPriorsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "export-priors FILE",
		Short: "Write what this node has learned of peaks, for other nodes",
		Long: "Writes to FILE what the history knew when it was last saved (every 2000 runs, and when the daemon ends): how far\n" +
			"runs go above what is expected of them, and how high workloads went by the names of their programs. Name the\n" +
			"file on another node as `priors` in the [prediction] part of its config.toml.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			priors, found, err := history.PeekPriors(cfg.StoreDir())
			switch {
			case err != nil:
				return err
			case !found:
				return fmt.Errorf("no history has been saved in %s yet: %w", cfg.StoreDir(), errdefs.ErrNotFound)
			}
			if err := writeWhole(args[0], 0o600, priors); err != nil {
				return fmt.Errorf("write the priors: %w", err)
			}
			return nil
		},
	}
}

// readPriors reads the file that the configuration names, "": none.
func readPriors(file string) (*history.Priors, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("prediction.priors: %w; write it with `forefend history export-priors` on another node", err)
	}
	if err != nil {
		return nil, fmt.Errorf("prediction.priors: %w", err)
	}
	defer f.Close()
	p, err := history.ReadPriors(f)
	if err != nil {
		return nil, fmt.Errorf("prediction.priors: %s: %w", file, err)
	}
	return p, nil
}
