package shim

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
)

// goneDeadline is how long the daemon has to take note of a dead shim. One that is
// away finds out by itself, from the records.
const goneDeadline = 500 * time.Millisecond

// report tells the daemon that the run of a record has ended with its shim.
func (m manager) report(ctx context.Context, r record.Record) {
	if r.Run == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, goneDeadline)
	defer cancel()
	c, err := api.Dial(ctx, m.cfg.Socket)
	if err == nil {
		err = errors.Join(c.Observe(ctx, api.ObserveRequest{Version: api.Version, Events: []api.Event{{
			Time: time.Now(), ID: r.ID, Run: r.Run, Kind: api.EventCleaned,
			Message: "its shim died, and the container with it: containerd had it cleaned up",
		}}}), c.Close())
	}
	if err != nil {
		log.G(ctx).WithError(err).Debug("forefend: the daemon was not told of a dead shim")
	}
}
