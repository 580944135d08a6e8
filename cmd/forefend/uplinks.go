package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/forefend/doctor"
	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/netns/uplink"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// keepUplinks begins to keep the uplinks of the configuration, and those no more that an earlier tunneld kept and it does not have. What is
// wrong with one keeps no tunnel from being served.
func keepUplinks(ctx context.Context, cfg *config.Config) (*uplink.Keeper, error) {
	home, err := enter.Process(os.Getpid())
	if err != nil {
		return nil, err
	}
	k := uplink.New(home, cfg.UplinksFile())
	if err := k.Set(ctx, uplinksOf(cfg)); err != nil {
		log.G(ctx).WithError(err).Error("forefend tunneld: uplinks")
	}
	return k, nil
}

func uplinksOf(cfg *config.Config) []uplink.Uplink {
	var all []uplink.Uplink
	for _, u := range cfg.Egress.Uplinks {
		all = append(all, uplink.Uplink{Device: u.Device, Rate: u.Rate})
	}
	return all
}

// listUplinks asks a tunneld for its uplinks. One of another version has none.
func listUplinks(ctx context.Context, of api.Uplinks) ([]api.Uplink, error) {
	list, err := of.Uplinks(ctx)
	if errdefs.IsNotImplemented(err) {
		return nil, nil
	}
	return list.Uplinks, err
}

// printUplinks prints what each class of each uplink sends.
func (a *app) printUplinks(all []api.Uplink) error {
	if len(all) == 0 {
		return nil
	}
	t := output.NewTable(output.Column{Name: "UPLINK"}, output.Column{Name: "RATE"}, output.Column{Name: "STATUS"}, output.Column{Name: "CLASS"},
		output.Column{Name: "SENT", Right: true}, output.Column{Name: "WAITS", Right: true}, output.Column{Name: "DROPPED", Note: "packets", Right: true})
	var whys []string
	for _, u := range all {
		lead := []string{u.Device, pdp.BitsText(u.Rate), u.Status}
		if u.Status != api.UplinkKept {
			t.Row(append(lead, "", "", "", "")...)
			whys = append(whys, u.Why)
		}
		for _, c := range u.Classes {
			t.Row(append(slices.Clone(lead), c.Class, output.Bytes(int64(c.Sent)), output.Bytes(int64(c.Waiting)), output.Count(int64(c.Dropped)))...)
		}
	}
	if _, err := fmt.Fprintln(a.stdout); err != nil {
		return err
	}
	if err := t.Write(a.stdout); err != nil {
		return err
	}
	page := output.NewPage(a.stdout)
	for _, why := range whys {
		page.Item(0, "Not kept", factAt, why)
	}
	return page.Err()
}

// disordered is what an uplink without order costs.
const disordered = "on a full uplink QoS classes have no order: a bulk transfer delays the most urgent request"

// fixes are what to do about an uplink, by its status.
var fixes = map[string]string{
	api.UplinkForeign:     "take it away (tc qdisc del dev DEVICE root), or this [[egress.uplink]] out of config.toml",
	api.UplinkUnsupported: "a kernel with sch_htb and cls_u32, as distributions' have them",
	api.UplinkAbsent:      "name a device that ip link lists, or wait for it: it is taken up when it comes",
	api.UplinkFailed:      "see tunneld's log; it is tried again once a minute",
}

// uplinkRows asks tunneld for its uplinks. Where none is configured and none was left, there is nothing to tell.
func (a *app) uplinkRows(ctx context.Context, c *config.Config) (rows []doctor.Row) {
	var all []api.Uplink
	err := a.withTunnels(ctx, func(ctx context.Context, t *api.TunnelsClient) (err error) {
		all, err = listUplinks(ctx, t)
		return err
	})
	if err != nil {
		for _, u := range c.Egress.Uplinks {
			rows = append(rows, degraded("uplink "+u.Device, strings.ReplaceAll(err.Error(), "\n", "; "), disordered, "as root: see that forefend tunneld runs"))
		}
		if home, err := enter.Process(os.Getpid()); err == nil {
			defer home.Close()
			left, _ := uplink.Left(home) // who may not look has other worries
			for _, device := range left {
				rows = append(rows, degraded("uplink "+device, "a queueing discipline of Forefend's, which no tunneld keeps",
					"nothing; it limits what the device sends to the rate that was configured", "start forefend tunneld, or tc qdisc del dev "+device+" root"))
			}
		}
		return rows
	}
	for _, u := range all {
		row := doctor.Row{Feature: "uplink " + u.Device, State: doctor.OK, Found: fmt.Sprintf("%s, classes in order, queues are %s", pdp.BitsText(u.Rate), u.Queue)}
		if u.Status != api.UplinkKept {
			row = degraded(row.Feature, cmp.Or(u.Why, u.Status), disordered, strings.ReplaceAll(fixes[u.Status], "DEVICE", u.Device))
		}
		rows = append(rows, row)
	}
	return rows
}

// uplinksEvery is how often the daemon asks tunneld how it stands with uplinks.
const uplinksEvery = 10 * time.Second

// watchUplinks tells of uplinks on which classes have no order, each time that begins or has another reason, until ctx ends.
func (d *daemon) watchUplinks(ctx context.Context) {
	if len(d.cfg.Tunnels) == 0 {
		return
	}
	ticker := time.NewTicker(uplinksEvery)
	defer ticker.Stop()
	for told := map[string]string{}; ; {
		ask, cancel := context.WithTimeout(ctx, uplinksEvery)
		client, err := api.DialTunnels(ask, d.cfg.TunnelsSocket())
		if err == nil {
			var all []api.Uplink
			all, err = listUplinks(ask, client)
			if err = errors.Join(err, client.Close()); err == nil {
				for _, e := range uplinkEvents(all, told) {
					d.service.Tell(e)
				}
			}
		}
		cancel() // that tunneld is away is told of elsewhere
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// uplinkEvents are of uplinks with another reason not to be kept than was told, which told remembers by device.
func uplinkEvents(all []api.Uplink, told map[string]string) (events []api.Event) {
	for _, u := range all {
		if u.Why != told[u.Device] && u.Status != api.UplinkKept {
			events = append(events, api.Event{
				Time: time.Now(), Kind: api.EventDegraded, Message: "no order among QoS classes on an uplink: " + u.Why,
				Fields: map[string]string{"uplink": u.Device, "status": u.Status},
			})
		}
		told[u.Device] = u.Why
	}
	return events
}
