package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// shimsAtOnce containers of each runtime run together, because shims share pages.
const shimsAtOnce = 20

// shimSettle lets a shim take several samples and send its first checkpoint before it is weighed.
const shimSettle = 12 * time.Second

// measureShims weighs the shims of containers that sleep.
func measureShims(ctx context.Context, b *bench) (figures []figure, err error) {
	n, err := openNode(ctx, nil, "busybox")
	if err != nil {
		return nil, err
	}
	defer func() {
		if closed := n.close(); err == nil {
			err = closed
		}
	}()
	if err := n.learnToSleep(ctx); err != nil {
		return nil, err
	}
	pss := make(map[runtimeKind][]float64)
	for range max(1, (b.rounds+shimsAtOnce-1)/shimsAtOnce) {
		if err := n.weighShims(ctx, pss); err != nil {
			return nil, err
		}
	}
	f := paired("shim PSS, 20 at once (MiB)", "%.2f", "%+.2f", pss[stock], pss[forefend], added)
	return []figure{f.hold(target{must: 1.5, aim: 0.5, unit: " MiB"}, f.Value)}, nil
}

var sleeper = []string{"sleep", "100000"}

// learnToSleep runs the sleeper until its policy is sealed.
func (n *node) learnToSleep(ctx context.Context) error {
	for range warmUp {
		id := n.id(forefend)
		if err := n.start(ctx, forefend, "busybox", id, nil, sleeper...); err != nil {
			return err
		}
		if err := n.remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) weighShims(ctx context.Context, pss map[runtimeKind][]float64) error {
	ids := make(map[runtimeKind][]string)
	for round := range shimsAtOnce {
		for _, kind := range inTurn(round) {
			id := n.id(kind)
			if err := n.start(ctx, kind, "busybox", id, nil, sleeper...); err != nil {
				return err
			}
			ids[kind] = append(ids[kind], id)
		}
	}
	if err := n.sealed(ctx, ids[forefend][0]); err != nil {
		return err
	}
	if err := wait(ctx, shimSettle); err != nil {
		return err
	}
	for kind, list := range ids {
		for _, id := range list {
			pid, err := n.pid(kind.shim, "-id", id)
			if err != nil {
				return err
			}
			kib, err := memory(pid, "smaps_rollup", "Pss")
			if err != nil {
				return err
			}
			pss[kind] = append(pss[kind], kib/1024)
		}
	}
	for _, list := range ids {
		for _, id := range list {
			if err := n.remove(ctx, id); err != nil {
				return err
			}
		}
	}
	return n.cpu.quiet(ctx)
}

// start runs a container in the background. No args means what its image says.
func (n *node) start(ctx context.Context, kind runtimeKind, image, id string, flags []string, args ...string) error {
	words := append([]string{"run", "--detach", "--runtime", kind.name}, flags...)
	_, _, err := n.ctr(ctx, append(append(words, harness.Image(image), id), args...)...)
	return err
}

// remove kills and removes a container.
func (n *node) remove(ctx context.Context, id string) error {
	if _, _, err := n.ctr(ctx, "task", "delete", "--force", id); err != nil {
		return err
	}
	_, _, err := n.ctr(ctx, "container", "delete", id)
	return err
}

// memory reads a field of a process's smaps_rollup or status, in KiB.
func memory(pid int, file, field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseFloat(match(`(?m)^`+field+`:\s*(\d+) kB$`, string(text)), 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/%s has no %s: %w", pid, file, field, err)
	}
	return kib, nil
}
