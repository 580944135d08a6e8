package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/whole"
)

// tick is how often devices are looked at, and retry when one is tried again for which the kernel lacks something: each try has it look for a module.
const (
	tick  = 2 * time.Second
	retry = time.Minute
)

// Keeper keeps uplinks of one namespace. It implements api.Uplinks. Its methods may be called from any goroutine.
type Keeper struct {
	ns   *enter.Namespace
	file string

	mu    sync.Mutex    // held while a device is changed
	kept  []*api.Uplink // without what its classes did; guarded by mu
	again []time.Time   // when each is tried again; guarded by mu
}

// New makes a keeper. In file it writes down which devices it has in hand, so that the next one knows them.
func New(ns *enter.Namespace, file string) *Keeper { return &Keeper{ns: ns, file: file} }

// Set has these uplinks kept from now on, and those no more that were, by this process or one that was killed. It may be repeated. What is
// wrong with one is told by Look, and tried again by Run.
func (k *Keeper) Set(ctx context.Context, uplinks []Uplink) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, err := k.read()
	if err != nil {
		log.G(ctx).WithError(err).Warn("uplinks of before are not known")
	}
	for _, s := range k.kept {
		before = append(before, s.Device)
	}
	kept := make([]*api.Uplink, 0, len(uplinks))
	now := make([]string, 0, len(uplinks))
	for _, u := range uplinks {
		s := &api.Uplink{Device: u.Device, Rate: u.Rate, Status: api.UplinkAbsent}
		if i := slices.IndexFunc(k.kept, func(o *api.Uplink) bool { return o.Device == u.Device }); i >= 0 {
			s.Status, s.Why = k.kept[i].Status, k.kept[i].Why // what was told is not told again
		}
		kept, now = append(kept, s), append(now, u.Device)
	}
	if err := k.write(now, before); err != nil { // before anything is there
		return err
	}
	k.kept, k.again = kept, make([]time.Time, len(kept))
	gone := slices.DeleteFunc(before, func(device string) bool { return slices.Contains(now, device) })
	if err := k.leave(gone); err != nil {
		return err
	}
	k.look(ctx)
	return k.write(now, nil)
}

// Run looks after the uplinks until ctx ends: what is missing comes back, and a device that comes later is taken up. The devices stay as they
// are then.
func (k *Keeper) Run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			k.mu.Lock()
			k.look(ctx)
			k.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// Close gives all devices back: the kernel gives them its own queueing disciplines. Nobody may call Set after it.
func (k *Keeper) Close(ctx context.Context) error { return k.Set(context.WithoutCancel(ctx), nil) }

// look has each uplink be as it should. k.mu is held.
func (k *Keeper) look(ctx context.Context) {
	for i, s := range k.kept {
		if time.Now().Before(k.again[i]) {
			continue
		}
		err := k.on(s.Device, func(d *device) error { return d.put(planOf(s.Rate)) })
		was, why := s.Status, s.Why
		s.Status, s.Why = statusOf(err)
		if s.Status == api.UplinkUnsupported || s.Status == api.UplinkFailed {
			k.again[i] = time.Now().Add(retry)
		}
		switch entry := log.G(ctx).WithField("uplink", s.Device); {
		case s.Status == was && s.Why == why:
		case err == nil:
			entry.WithField("rate", 8*s.Rate).Info("uplink: its classes are in order")
		default:
			entry.Warn("uplink: no order among its classes: " + s.Why)
		}
	}
}

func statusOf(err error) (status, why string) {
	switch {
	case err == nil:
		return api.UplinkKept, ""
	case errors.Is(err, errForeign):
		return api.UplinkForeign, err.Error()
	case errors.Is(err, errors.ErrUnsupported):
		return api.UplinkUnsupported, err.Error()
	case errors.Is(err, errNoDevice):
		return api.UplinkAbsent, err.Error()
	}
	return api.UplinkFailed, err.Error()
}

// on calls f with a device, inside the namespace.
func (k *Keeper) on(name string, f func(*device) error) error {
	return k.ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open routing: %w", err)
		}
		defer h.Close()
		d, err := open(h, name)
		if err != nil {
			return err
		}
		if err := f(d); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

// leave takes away what is ours from devices.
func (k *Keeper) leave(devices []string) error {
	var errs []error
	for _, name := range devices {
		if err := k.on(name, (*device).remove); err != nil && !errors.Is(err, errNoDevice) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Uplinks implements api.Uplinks.
func (k *Keeper) Uplinks(context.Context) (api.UplinksResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out api.UplinksResponse
	for _, s := range k.kept {
		one := *s
		if one.Status == api.UplinkKept {
			if err := k.on(s.Device, func(d *device) error { return count(d, &one) }); err != nil {
				one.Status, one.Why = statusOf(err)
			}
		}
		out.Uplinks = append(out.Uplinks, one)
	}
	return out, nil
}

// count reads what classes have done.
func count(d *device, u *api.Uplink) error {
	classes, err := d.classes()
	if err != nil {
		return err
	}
	for i, o := range order {
		handle := uint32(rootHandle + leaves + i)
		c := api.UplinkClass{Class: o.class}
		for _, one := range classes {
			if a := one.Attrs(); a.Handle == handle && a.Statistics != nil {
				c.Sent, c.Packets, c.Waiting = a.Statistics.Basic.Bytes, uint64(a.Statistics.Basic.Packets), uint64(a.Statistics.Queue.Backlog)
			}
		}
		for _, q := range d.all {
			if a := q.Attrs(); a.Parent == handle && a.Statistics != nil {
				u.Queue, c.Dropped = q.Type(), uint64(a.Statistics.Queue.Drops)
			}
		}
		u.Classes = append(u.Classes, c)
	}
	return nil
}

// read is which devices were in hand.
func (k *Keeper) read() (devices []string, err error) {
	text, err := os.ReadFile(k.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &devices)
	}
	if err != nil {
		return nil, fmt.Errorf("record of uplinks: %w", err)
	}
	return devices, nil
}

// write puts down which devices are in hand. Without any there is no file.
func (k *Keeper) write(lists ...[]string) error {
	all := slices.Concat(lists...)
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 0 {
		if err := os.Remove(k.file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("record of uplinks: %w", err)
		}
		return nil
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = whole.Replace(k.file, text)
	}
	if err != nil {
		return fmt.Errorf("record of uplinks: %w", err)
	}
	return nil
}

// Left lists the devices of a namespace that have a queueing discipline of ours, whoever keeps it.
func Left(ns *enter.Namespace) (devices []string, err error) {
	err = ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open routing: %w", err)
		}
		defer h.Close()
		all, err := link.Whole(func() ([]netlink.Qdisc, error) { return h.QdiscList(nil) })
		if err != nil {
			return fmt.Errorf("queueing disciplines: %w", err)
		}
		for _, q := range all {
			if a := q.Attrs(); a.Parent != netlink.HANDLE_ROOT || a.Handle != rootHandle || q.Type() != "htb" {
				continue
			}
			if link, err := h.LinkByIndex(q.Attrs().LinkIndex); err == nil { // else it is gone by now
				devices = append(devices, link.Attrs().Name)
			}
		}
		return nil
	})
	return devices, err
}
