package gateway

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/runtime/whole"
)

// A gateway that comes back has lost what its peers agreed with it, and they notice after a quarter of a minute (WireGuard's
// REKEY_TIMEOUT and KEEPALIVE_TIMEOUT). Where it last heard them is written down from time to time, so that it can speak first.
// It is a help and no state: what is wrong there costs that time.

const (
	heardName  = "heard"
	heardEvery = 20 * time.Second
	heardMost  = 16 << 20 // bytes
)

// saveHeard writes down where peers were heard. mu need not be held.
func (g *Gateway) saveHeard() error {
	all, err := g.plane.peers()
	if err != nil {
		return err
	}
	at := make(map[string]netip.AddrPort)
	for key, p := range all {
		if p.Endpoint.IsValid() {
			at[key.Text()] = p.Endpoint
		}
	}
	body, err := json.Marshal(at)
	path := filepath.Join(g.config.State, heardName)
	if err == nil {
		err = whole.Replace(path, body)
	}
	if err != nil {
		return fmt.Errorf("write down where peers were heard: %w", err)
	}
	return nil
}

// heard is where peers were last heard.
func (g *Gateway) heard() map[wg.Key]netip.AddrPort {
	path := filepath.Join(g.config.State, heardName)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > heardMost {
		return nil
	}
	body, err := os.ReadFile(path)
	var at map[string]netip.AddrPort
	if err != nil || json.Unmarshal(body, &at) != nil {
		return nil
	}
	all := make(map[wg.Key]netip.AddrPort, len(at))
	for text, where := range at {
		if key, err := wg.ParseKey(text); err == nil {
			all[key] = where
		}
	}
	return all
}
