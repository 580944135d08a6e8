package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// What a site wants when the daemon cannot be asked.
const (
	unavailableOpen   = "open"
	unavailableClosed = "closed"
)

// decide asks the daemon, starting it if need be, and otherwise follows the
// site's on_unavailable. A refusal by the daemon (a malformed annotation, say) is
// final: only its absence has a fallback.
func (s *Service) decide(ctx context.Context, req api.AdmitRequest) (api.Decision, error) {
	d, err := s.ask(ctx, req)
	if err == nil || errdefs.IsInvalidArgument(err) || errdefs.IsPermissionDenied(err) || errdefs.IsFailedPrecondition(err) {
		return d, err
	}
	why := err
	if d, err = s.decideAlone(req, why); err == nil {
		s.tellAlone(ctx, "admit", d, why)
	}
	return d, err
}

func (s *Service) ask(ctx context.Context, req api.AdmitRequest) (d api.Decision, err error) {
	admit := func(ctx context.Context, c *api.Client) (err error) {
		s.turn.Do(func() { d, err = c.Admit(ctx, req) }) // the daemon's answer is of use once this process has had it
		return err
	}
	err = s.link.call(ctx, s.cfg.AdmitDeadline, admit)
	if err == nil && d.Wait > 0 {
		return s.askAgain(ctx, req, d)
	}
	if err == nil || !errdefs.IsUnavailable(err) {
		return d, err
	}
	if err := s.link.ensure(ctx); err != nil {
		return d, err
	}
	err = s.link.call(ctx, s.cfg.ColdStart, admit) // its first answer is part of coming up
	if err == nil && d.Wait > 0 {
		return s.askAgain(ctx, req, d)
	}
	return d, err
}

// askAgain waits once for what the daemon is finding out about an image that it sees for the first time, and asks
// anew. Whatever goes wrong with that, the first answer is a whole one (docs/decisions/0044).
func (s *Service) askAgain(ctx context.Context, req api.AdmitRequest, first api.Decision) (api.Decision, error) {
	_ = s.link.call(ctx, first.Wait+s.cfg.AdmitDeadline, func(ctx context.Context, c *api.Client) error {
		return c.Await(ctx, api.AwaitRequest{Version: api.Version, Facts: first.Facts})
	})
	req.Waited, req.Facts = true, first.Facts // who it is need not be found out again
	var d api.Decision
	err := s.link.call(ctx, s.cfg.AdmitDeadline, func(ctx context.Context, c *api.Client) (err error) {
		s.turn.Do(func() { d, err = c.Admit(ctx, req) })
		return err
	})
	if err != nil && (errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded)) {
		first.Wait = 0
		first.Notes = append(first.Notes, "the daemon could not be asked again after the wait for the scan: "+err.Error())
		return first, nil
	}
	return d, err
}

// decideAlone is the choice of on_unavailable. The decision says how it came
// about, so explain can.
func (s *Service) decideAlone(req api.AdmitRequest, why error) (api.Decision, error) {
	switch s.cfg.OnUnavailable {
	case unavailableClosed:
		return api.Decision{}, fmt.Errorf("the forefend daemon cannot be asked and on_unavailable is \"closed\"; "+
			"start it with `forefend daemon` (log: %s): %w: %w", s.cfg.DaemonLog, why, errdefs.ErrUnavailable)
	case unavailableOpen:
		return api.Decision{
			Version: api.Version, Time: time.Now(), Facts: req.Facts, Availability: api.ByNobody, Revision: 1,
			Notes: []string{"the daemon could not be asked (" + why.Error() + ") and on_unavailable is \"open\": the container runs as requested"},
		}, nil
	}
	in := admit.Input{
		Request: req, Site: s.cfg.Site, Privileged: s.cfg.Privileged, Unified: unified(), Availability: api.BySiteDefault,
		Notes:   []string{"the daemon could not be asked: " + why.Error()},
		Reserve: s.cfg.Reserve,
	}
	in.NodeMemory, _, _ = cgroup.NodeMemory() // not known: no ceiling but what others set
	keys := req.Facts.Keys()
	rootfs, layered := req.Facts.RootfsKey()
	if layered {
		keys = append([]workload.Key{rootfs}, keys...)
	}
	known, key, err := s.cfg.Sealed.Read(keys)
	if err == nil && layered && key == rootfs { // the same layers: the same image, so the run finds its way into its history
		in.Request.Facts.Image, in.Request.Facts.Executable = known.Facts.Image, known.Facts.Executable
	}
	switch {
	case err == nil:
		in.Availability, in.Prediction = api.ByLastKnown, known.Prediction
		in.Sealed = known.Airbag
		in.Predicted = known.Effective.ClaimsBy(policy.Prediction)
		in.Notes = append(in.Notes, "prediction taken from the last sealed policy of "+key.String())
	case !errors.Is(err, fs.ErrNotExist):
		in.Notes = append(in.Notes, "the last sealed policy is unusable: "+err.Error())
	}
	return admit.Decide(in)
}
