package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// callTimeout bounds a call that the daemon answers from memory.
const callTimeout = 10 * time.Second

// withDaemon calls do with a connection to the daemon.
func (a *app) withDaemon(ctx context.Context, do func(context.Context, api.Orchestrator) error) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	dialContext, cancel := context.WithTimeout(ctx, callTimeout)
	client, err := api.Dial(dialContext, c.Socket())
	cancel()
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w\n(nobody listens on %s)", errNoDaemon, c.Socket())
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w\nThe daemon's socket is for root only: run forefend as root", err)
	case err != nil:
		return err
	}
	defer client.Close()
	return explainCall(do(ctx, client), c.Socket())
}

// explainCall turns a connection that broke into errNoDaemon, and a late answer into words.
func explainCall(err error, socket string) error {
	switch {
	case errors.Is(err, ttrpc.ErrClosed), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w\n(the one that listened on %s is gone: %v)", errNoDaemon, socket, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the forefend daemon did not answer within %s: %w", callTimeout, err)
	}
	return err
}

// ask makes one call that is bounded by callTimeout.
func ask[Resp any](ctx context.Context, call func(context.Context) (Resp, error)) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return call(ctx)
}
