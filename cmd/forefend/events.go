package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// followWait is how long the daemon may hold one question of --follow.
const followWait = 30 * time.Second

// eventsQuery is a command line of `forefend events`.
type eventsQuery struct {
	container string
	since     string
	tail      int
	follow    bool
	asJSON    bool

	after uint64    // from since
	from  time.Time // from since
}

func newEventsCommand(a *app) *cobra.Command {
	var q eventsQuery
	cmd := &cobra.Command{
		Use:   "events [CONTAINER]",
		Short: "Show what happened: admissions, denied and learned calls, exits, degradations",
		Long: "Shows the newest events of all containers, or of CONTAINER (ID or NAMESPACE/ID). --since 0 shows\n" +
			"all that are kept. --json prints one event a line; its seq is what --since takes.",
		Example:           "  forefend events --follow\n  forefend events --since 10m web-1\n  forefend events --since 4711 --json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.container = args[0]
			}
			if q.since != "" && cmd.Flags().Changed("tail") {
				return usage(cmd, errors.New("--since and --tail exclude each other"))
			}
			if err := q.parse(a.now()); err != nil {
				return usage(cmd, err)
			}
			err := a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) error { return a.events(ctx, daemon, q) })
			if q.follow && cmd.Context().Err() != nil {
				return nil // interrupted: the way --follow ends
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&q.follow, "follow", "f", false, "wait for new events until interrupted")
	cmd.Flags().StringVar(&q.since, "since", "", "only events after this `SEQ` or younger than this duration (10m)")
	cmd.Flags().IntVar(&q.tail, "tail", 100, "the newest `N` events")
	cmd.Flags().BoolVar(&q.asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func (q *eventsQuery) parse(now time.Time) error {
	if q.tail < 0 || q.tail > 100_000 {
		return fmt.Errorf("--tail %d: not between 0 and 100000", q.tail)
	}
	if q.since == "" {
		return nil
	}
	if seq, err := strconv.ParseUint(q.since, 10, 64); err == nil {
		q.after = seq
		return nil
	}
	d, err := time.ParseDuration(q.since)
	if err != nil || d < 0 {
		return fmt.Errorf("--since %q: neither a sequence number nor a duration such as 90s, 10m or 2h", q.since)
	}
	q.from = now.Add(-d)
	return nil
}

// events prints what there is, page by page, and then, with follow, what comes.
func (a *app) events(ctx context.Context, daemon api.Orchestrator, q eventsQuery) error {
	req := api.EventsRequest{After: q.after}
	if q.since == "" {
		req.Tail, req.Limit = true, q.tail
	}
	if q.container != "" {
		id, err := findContainer(ctx, daemon, q.container)
		if err != nil {
			return err
		}
		req.ID = id
	}
	if req.Tail && req.Limit == 0 { // --tail 0: nothing old. 0 would mean the daemon's own limit
		req.Limit, q.from = 1, a.now()
	}
	for {
		resp, err := nextEvents(ctx, daemon, req)
		if err != nil {
			return err
		}
		if resp.Lost > 0 {
			fmt.Fprintf(a.stderr, "forefend: %s no longer kept\n", plural(int(resp.Lost), "older event"))
		}
		for _, e := range resp.Events {
			if e.Time.Before(q.from) {
				continue
			}
			if err := a.printEvent(e, q.asJSON); err != nil {
				return err
			}
		}
		drained := len(resp.Events) == 0 || req.Tail
		if drained && !q.follow {
			return nil
		}
		req = api.EventsRequest{After: max(resp.Next, req.After), ID: req.ID}
		if drained {
			req.Wait = followWait
		}
	}
}

// nextEvents bounds one question by the time the daemon may hold it and the time of any other call.
func nextEvents(ctx context.Context, daemon api.Orchestrator, req api.EventsRequest) (api.EventsResponse, error) {
	bounded, cancel := context.WithTimeout(ctx, req.Wait+callTimeout)
	defer cancel()
	resp, err := daemon.Events(bounded, req)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return resp, err
}

// The columns of an event line: a stream cannot be measured before it is printed.
const (
	eventKindAt      = len("01-02 15:04:05") + 2
	eventContainerAt = eventKindAt + len("degraded") + 2
	eventMessageAt   = eventContainerAt + 22
)

func (a *app) printEvent(e api.Event, asJSON bool) error {
	if asJSON {
		return output.JSONLine(a.stdout, e)
	}
	who := "(node)"
	if e.ID != (workload.ID{}) {
		who = e.ID.Container
		if e.ID.Namespace != defaultNamespace() {
			who = e.ID.String()
		}
	}
	head := fmt.Sprintf("%s  %-8s  %s", e.Time.Local().Format("01-02 15:04:05"), output.Truncate(output.Printable(e.Kind), 8),
		output.Truncate(output.Printable(who), eventMessageAt-eventContainerAt-2))
	page := output.NewPage(a.stdout)
	page.Item(0, head, eventMessageAt, e.Message)
	return page.Err()
}
