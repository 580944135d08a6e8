package history

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/store"
)

// Priors are what one node has learned that is worth knowing on another before it has
// a history of its own: how far runs go above what is expected of them, and how high workloads went by
// what they have in common (programs, words of their names, repositories, users, groups).
type Priors struct {
	bounds [kinds]estimate.State
	kin    kinship
}

// Shipped priors begin with this line; then the format's version follows.
const (
	priorsMagic   = "forefend priors\n"
	priorsVersion = 1
)

// ErrNoPriors is in the chain of the error for input that is no priors, or damaged.
var ErrNoPriors = errors.New("these are no priors")

// Priors returns what b has learned, as of now.
func (b *Book) Priors() *Priors {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.model.priors()
}

// PeekPriors reads what the history kept in a store's directory had learned when it was last written: every 2000 runs
// and when its daemon ended. The store may be in use. found is false when nothing was written yet.
func PeekPriors(dir string) (p *Priors, found bool, err error) {
	for _, name := range snapshotNames {
		found, err = store.PeekSnapshot(dir, name, func(r io.Reader) error {
			m, err := readModel(r, Options{}.withDefaults().Coverage, Options{}.withDefaults().MaxKeys)
			if err == nil {
				p = m.priors()
			}
			return err
		})
		if found || err != nil {
			break
		}
	}
	return p, found, err
}

func (m *model) priors() *Priors {
	p := &Priors{kin: newKinship()}
	for kind, c := range m.bounds {
		p.bounds[kind] = c.State()
	}
	p.kin.adopt(m.kin)
	return p
}

// WriteTo writes p for ReadPriors.
func (p *Priors) WriteTo(to io.Writer) (int64, error) {
	w := &writer{w: to}
	w.buf = append(w.buf, priorsMagic...)
	w.uint(priorsVersion)
	w.uint(kinds)
	for _, s := range p.bounds {
		w.calibration(s)
	}
	w.kinship(p.kin)
	w.flush()
	return w.n, w.err
}

// ReadPriors reads what WriteTo wrote. Time and memory are bounded, whatever the input; the
// error for what cannot be used is ErrNoPriors.
func ReadPriors(from io.Reader) (*Priors, error) {
	r := &reader{r: bufio.NewReader(from)}
	if magic := string(r.fill(make([]byte, len(priorsMagic)))); r.err != nil || magic != priorsMagic {
		return nil, fmt.Errorf("%w: the first line is not %q", ErrNoPriors, priorsMagic)
	}
	if v := r.uint(); v != priorsVersion {
		return nil, fmt.Errorf("%w: version %d is unknown here", ErrNoPriors, v)
	}
	p := &Priors{}
	for kind := range r.count(kinds) {
		p.bounds[kind] = r.calibration()
	}
	p.kin = r.kinship()
	if r.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoPriors, r.err)
	}
	return p, nil
}

// adopt fills what m does not know from p. Doing it again changes nothing.
func (m *model) adopt(p *Priors) {
	if p == nil {
		return
	}
	for kind, c := range m.bounds {
		c.Adopt(p.bounds[kind])
	}
	m.kin.adopt(p.kin)
}

func (k *kinship) adopt(from kinship) {
	for name, t := range from.traits {
		if k.traits[name] == nil {
			own := *t
			own.members = append([]relative(nil), t.members...)
			k.traits[name] = &own
		}
	}
}
