package openvpn

import (
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
)

// shelve takes the TUN from this process's network to where it waits: a namespace of its own, in which no other program of the node
// takes it for its business, and which ends with the TUN's stay.
func (p *Process) shelve() error {
	ns, err := enter.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	return p.place(ns, p.name, 0)
}

// place takes the TUN to a namespace, under a name and an index as move does.
func (p *Process) place(ns *enter.Namespace, name string, index int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	again, err := ns.Again()
	if err != nil {
		return err
	}
	if err := move(p.where, p.name, again, name, index); err != nil {
		_ = again.Close() // of no use
		return err
	}
	if p.where != nil {
		_ = p.where.Close() // it was only held
	}
	p.where, p.name = again, name
	return nil
}

// Plan is the device, for a namespace where it is needed.
func (p *Process) Plan() link.Plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	return link.Plan{
		Addresses: p.addresses, MTU: p.config.MTU,
		Make: func(ns *enter.Namespace, name string, index int) (link.Device, error) {
			if err := p.place(ns, name, index); err != nil {
				_ = p.Close() // nobody else has it
				return nil, err
			}
			return p, nil
		},
		Drop: func() { _ = p.Close() }, // what is left of it is swept
	}
}
