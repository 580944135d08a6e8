package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/openvpn"
)

// OpenVPNSettings are what tunnels of that kind have besides.
type OpenVPNSettings struct {
	CAFile       string   // of the gateway's authority
	TLSCryptFile string   // the key that both sides share before they have spoken, "" for none
	Fingerprints []string // of the gateway's certificate, any of them; none: whatever the authority signed
	PeerName     string   // the name in it; "": any
	Ready        int      // devices that wait, connected
}

// openVPN makes the devices of tunnels of OpenVPN. A gateway lets a client in after a second or more, so some wait, connected, for
// somebody who needs them.
type openVPN struct {
	admit func(pid int) error // puts a process where openvpns belong
	// report is told how the gateways of those that wait were found.
	report func(tunnel string, h Health, why string)

	ctx  context.Context // until end: devices outlive the requests for which they connect
	stop context.CancelFunc

	mu      sync.Mutex
	waiting map[place]*arrival  // guarded by mu
	failed  map[place]*failures // guarded by mu
	begun   sync.WaitGroup      // of what connects
}

var _ maker = (*openVPN)(nil)

// place is a slot of a tunnel.
type place struct {
	tunnel string
	slot   int
}

// arrival is a device that connects, or is connected once done is closed.
type arrival struct {
	of      *Tunnel
	done    chan struct{}
	process *openvpn.Process // nil: err says why
	err     error
}

// failures are how often a slot's connecting has failed in a row, why and when the last time, and when it may be tried again.
type failures struct {
	n         int
	why       string
	at, until time.Time
}

// How long a gateway may take to let a client in: a request waits for it, with whatever endpoints there are. Those that wait have time.
const (
	connectWithin  = 7 * time.Second
	endpointWithin = 3 * time.Second
	leastBackoff   = time.Second
	mostBackoff    = 20 * time.Second // within retry: a tunnel that is down does not seem up in between
)

func newOpenVPN(admit func(int) error, report func(string, Health, string)) *openVPN {
	o := &openVPN{admit: admit, report: report, waiting: make(map[place]*arrival), failed: make(map[place]*failures)}
	o.ctx, o.stop = context.WithCancel(context.Background())
	return o
}

func (o *openVPN) check(t *Tunnel) error {
	var errs []error
	for n := range t.Slots {
		if _, err := openVPNConfig(t, n); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// plan has a device connected. That of a trial connects anew.
func (o *openVPN) plan(ctx context.Context, s site) (link.Plan, error) {
	at := place{s.tunnel.Name, s.slot}
	a := o.take(at)
	if a != nil && (s.trial || a.over()) {
		a.drop()
		a = nil
	}
	if a == nil {
		endpoints := s.tunnel.Endpoints
		if s.trial {
			endpoints = []string{s.to.String()}
		}
		a = o.begin(s.tunnel, s.slot, endpoints)
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		o.begun.Go(a.drop)
		return link.Plan{}, ctx.Err()
	}
	if a.err != nil {
		return link.Plan{}, a.err
	}
	return a.process.Plan(), nil
}

// begin has a slot's device connect.
func (o *openVPN) begin(t *Tunnel, slot int, endpoints []string) *arrival {
	a := &arrival{of: t, done: make(chan struct{})}
	o.begun.Go(func() {
		defer close(a.done)
		a.process, a.err = o.connect(t, slot, endpoints)
	})
	return a
}

// connect tries the endpoints one after the other.
func (o *openVPN) connect(t *Tunnel, slot int, endpoints []string) (*openvpn.Process, error) {
	c, err := openVPNConfig(t, slot)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, endpoint := range endpoints {
		ctx, cancel := context.WithTimeout(o.ctx, max(endpointWithin, connectWithin/time.Duration(len(endpoints))))
		c.Endpoint, err = resolve(ctx, endpoint)
		if err == nil {
			var p *openvpn.Process
			if p, err = openvpn.Start(ctx, c, o.admit); err == nil {
				cancel()
				return p, nil
			}
		}
		cancel()
		if len(endpoints) > 1 {
			err = fmt.Errorf("endpoint %s: %w", endpoint, err)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// take is a slot's device that waits, which does so no more; nil for none.
func (o *openVPN) take(at place) *arrival {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.waiting[at]
	delete(o.waiting, at)
	return a
}

// over tells whether a device has come to nothing, or has ended since.
func (a *arrival) over() bool {
	select {
	case <-a.done:
	default:
		return false
	}
	if a.process == nil {
		return true
	}
	stats, _ := a.process.Stats() // it never fails
	return stats.Fault != ""
}

// drop gives a device up, once it has arrived.
func (a *arrival) drop() {
	<-a.done
	if a.process != nil {
		_ = a.process.Close() // what is left of it is swept
	}
}

// keep has as many devices wait as tunnels ask for, in the slots that are given out next.
func (o *openVPN) keep(now time.Time, all []Standing, spare func(tunnel string, n int) []int) {
	wanted := make(map[place]*Tunnel)
	for _, s := range all {
		if s.Tunnel.Kind != OpenVPN || s.Draining {
			continue
		}
		for _, slot := range spare(s.Tunnel.Name, s.Tunnel.OpenVPN.Ready) {
			wanted[place{s.Tunnel.Name, slot}] = &s.Tunnel
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	up := make(map[string]bool) // tunnels that have let one in
	for at, a := range o.waiting {
		t := wanted[at]
		switch {
		case t == nil:
			delete(o.waiting, at)
			o.begun.Go(a.drop)
		case a.over():
			delete(o.waiting, at)
			o.fail(now, at, a)
		case a.arrived():
			delete(o.failed, at)
			up[at.tunnel] = true
		}
	}
	for at, f := range o.failed {
		if f.at.Equal(now) && !up[at.tunnel] {
			o.report(at.tunnel, Down, f.why)
		}
	}
	for name := range up {
		o.report(name, Up, "")
	}
	for at, t := range wanted {
		if o.waiting[at] == nil && (o.failed[at] == nil || now.After(o.failed[at].until)) {
			o.waiting[at] = o.begin(t, at.slot, t.Endpoints)
		}
	}
}

func (a *arrival) arrived() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// fail has the next one in the slot of a device that came to nothing wait, each time for longer. mu is held.
func (o *openVPN) fail(now time.Time, at place, a *arrival) {
	why := a.err
	if a.process != nil {
		stats, _ := a.process.Stats() // it never fails
		why = errors.New(stats.Fault)
		o.begun.Go(a.drop)
	}
	f := o.failed[at]
	if f == nil {
		f = &failures{}
		o.failed[at] = f
	}
	f.why, f.at, f.until = why.Error(), now, now.Add(min(leastBackoff<<min(f.n, 10), mostBackoff))
	f.n++
}

// end gives up all that wait, and waits for what connects.
func (o *openVPN) end() {
	o.mu.Lock()
	for at, a := range o.waiting {
		delete(o.waiting, at)
		o.begun.Go(a.drop)
	}
	o.mu.Unlock()
	o.stop()
	o.begun.Wait()
	openvpn.Wait()
}

// maxPEM bounds what is read of a certificate's or key's file.
const maxPEM = 64 << 10

// openVPNConfig is the configuration of a slot's device, with its files read anew.
func openVPNConfig(t *Tunnel, slot int) (openvpn.Config, error) {
	at := t.Slots[slot]
	c := openvpn.Config{Fingerprints: t.OpenVPN.Fingerprints, PeerName: t.OpenVPN.PeerName, Allowed: at.Addresses, MTU: t.MTU, DeadAfter: t.DeadAfter}
	var errs []error
	read := func(into *[]byte, path string, of func(string, int) ([]byte, error)) {
		b, err := of(path, maxPEM)
		if err == nil && bytes.ContainsRune(b, '<') { // it would end what openvpn is to read as a whole
			err = fmt.Errorf("file %s is no PEM: it has a <", path)
		}
		*into = b
		errs = append(errs, err)
	}
	read(&c.CA, t.OpenVPN.CAFile, readPublic)
	read(&c.Cert, at.CertFile, readPublic)
	read(&c.Key, at.KeyFile, readSecret)
	if t.OpenVPN.TLSCryptFile != "" {
		if read(&c.TLSCrypt, t.OpenVPN.TLSCryptFile, readSecret); len(c.TLSCrypt) > 0 && !bytes.Contains(c.TLSCrypt, []byte("-----BEGIN OpenVPN Static key V1-----")) {
			errs = append(errs, fmt.Errorf("key file %s is none for tls-crypt: openvpn --genkey secret FILE makes one", t.OpenVPN.TLSCryptFile))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return openvpn.Config{}, err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(c.CA) {
		return openvpn.Config{}, fmt.Errorf("file %s has no certificate", t.OpenVPN.CAFile)
	}
	if _, err := tls.X509KeyPair(c.Cert, c.Key); err != nil {
		return openvpn.Config{}, fmt.Errorf("certificate %s and key %s: %w", at.CertFile, at.KeyFile, err)
	}
	return c, nil
}

// readPublic reads a file that is no secret.
func readPublic(path string, most int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return b, nil
}
