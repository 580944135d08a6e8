// Package cache keeps decisions where they are asked for: for every flow.Context that is the same in all that a decision
// depended on, until the epoch changes or its validity has passed. It knows no rules and is small enough for an agent.
//
// A Cache may be used from any goroutine. It reads no clock: callers say what time it is.
package cache

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// maxKinds is how many different lists of fields decisions of one epoch may depend on: each costs a look when something is
// not found. Rules of real sites make a handful.
const maxKinds = 32

// Cache is a bounded number of decisions of one epoch.
type Cache struct {
	most int

	mu    sync.Mutex
	epoch uint64 // guarded by mu
	kinds []kind // guarded by mu
	young int    // entries in the young maps; guarded by mu
	key   []byte // room for a key; guarded by mu
}

// kind are the decisions that depend on the same fields. New entries are young; when there are as many as half the bound they
// become old and what was old, and not asked for since, is forgotten.
type kind struct {
	depends    []flow.Field
	keys       keys
	young, old map[string]*entry
}

type entry struct {
	decision flow.Decision
	until    time.Time // zero: while the epoch lasts
}

// New makes a cache of at most so many decisions.
func New(most int) *Cache { return &Cache{most: max(most, 2)} }

// Reset forgets everything and takes decisions of this epoch from now on.
func (c *Cache) Reset(epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch, c.kinds, c.young = epoch, nil, 0
}

// Epoch is that of the decisions kept.
func (c *Cache) Epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// Get returns the decision about a Context; nil: it is not known. It must not be written to.
func (c *Cache) Get(x *flow.Context, now time.Time) *flow.Decision {
	if e := c.find(x, now); e != nil {
		return &e.decision
	}
	return nil
}

// Copy returns the decision about a Context for somebody who keeps it too: Valid is what is left of it.
func (c *Cache) Copy(x *flow.Context, now time.Time) (flow.Decision, bool) {
	e := c.find(x, now)
	if e == nil {
		return flow.Decision{}, false
	}
	d := e.decision
	if d.Valid > 0 {
		d.Valid = e.until.Sub(now)
	}
	return d, true
}

func (c *Cache) find(x *flow.Context, now time.Time) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.kinds {
		k := &c.kinds[i]
		c.key = k.keys.append(c.key[:0], x)
		e, ok := k.young[string(c.key)]
		if !ok {
			if e, ok = k.old[string(c.key)]; ok {
				c.addLocked(k, e)
			}
		}
		if ok && (e.until.IsZero() || now.Before(e.until)) {
			return e
		}
	}
	return nil
}

// Put keeps a decision that was made for a Context at a time. One of another epoch is not kept: it was overtaken.
func (c *Cache) Put(x *flow.Context, d flow.Decision, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Epoch != c.epoch {
		return
	}
	i := slices.IndexFunc(c.kinds, func(k kind) bool { return slices.Equal(k.depends, d.Depends) })
	if i < 0 {
		if len(c.kinds) == maxKinds {
			c.kinds, c.young = nil, 0
		}
		i = len(c.kinds)
		c.kinds = append(c.kinds, kind{depends: d.Depends, keys: keysOf(d.Depends), young: make(map[string]*entry)})
	}
	e := &entry{decision: d}
	if d.Valid > 0 {
		e.until = now.Add(d.Valid)
	}
	c.key = c.kinds[i].keys.append(c.key[:0], x)
	c.addLocked(&c.kinds[i], e)
}

// addLocked enters what belongs to c.key. When half the bound is young, all of it becomes old.
func (c *Cache) addLocked(k *kind, e *entry) {
	if _, again := k.young[string(c.key)]; !again {
		if c.young++; c.young > c.most/2 {
			for i := range c.kinds {
				c.kinds[i].old, c.kinds[i].young = c.kinds[i].young, make(map[string]*entry)
			}
			c.young = 1
		}
	}
	k.young[string(c.key)] = e
}

// len counts the entries.
func (c *Cache) len() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.kinds {
		n += len(k.young) + len(k.old)
	}
	return n
}

// text is where the texts of a Context are that decisions can depend on.
var text = map[flow.Field]func(*flow.Context) string{
	flow.FieldUser:      func(x *flow.Context) string { return x.User },
	flow.FieldUserProof: func(x *flow.Context) string { return string(x.UserProof) },
	flow.FieldHostProof: func(x *flow.Context) string { return string(x.HostProof) },
	flow.FieldOperation: func(x *flow.Context) string { return x.Operation },
	flow.FieldPath:      func(x *flow.Context) string { return x.Path },
	flow.FieldMethod:    func(x *flow.Context) string { return x.Method },
	flow.FieldService:   func(x *flow.Context) string { return x.Service },
	flow.FieldWorkload:  func(x *flow.Context) string { return x.Workload },
	flow.FieldNamespace: func(x *flow.Context) string { return x.Namespace },
	flow.FieldContainer: func(x *flow.Context) string { return x.Container },
	flow.FieldImage:     func(x *flow.Context) string { return x.Image },
	flow.FieldProtocol:  func(x *flow.Context) string { return string(x.Protocol) },
}

// rest writes down what is not a text.
var rest = map[flow.Field]func([]byte, *flow.Context) []byte{
	flow.FieldHost: func(b []byte, x *flow.Context) []byte {
		b = binary.AppendUvarint(appendText(b, x.Host), uint64(len(x.Names)))
		for _, name := range x.Names {
			b = appendText(b, name)
		}
		return b
	},
	flow.FieldRisk: func(b []byte, x *flow.Context) []byte { return binary.AppendVarint(b, int64(x.Risk)) },
	flow.FieldData: func(b []byte, x *flow.Context) []byte { // the label is what data is where nothing says it
		return appendText(appendText(b, x.Data), x.Label)
	},
	flow.FieldPort: func(b []byte, x *flow.Context) []byte {
		return binary.BigEndian.AppendUint16(b, x.Destination.Port())
	},
	flow.FieldDestination: func(b []byte, x *flow.Context) []byte {
		addr := x.Destination.Addr().Unmap().As16()
		return append(b, addr[:]...)
	},
	flow.FieldProcess: func(b []byte, x *flow.Context) []byte {
		if x.Process == nil {
			return append(b, 0)
		}
		b = appendText(append(b, 1), x.Process.Executable)
		return binary.AppendVarint(b, int64(x.Process.PID))
	},
}

// keys writes down the values of the fields that the decisions of a kind depend on, so that no two lists of values look the same.
type keys struct {
	texts []func(*flow.Context) string
	rest  []func([]byte, *flow.Context) []byte
}

// keysOf leaves out the time, the load and whatever else is not a part of a Context: a decision that depends on them says how
// long it is valid.
func keysOf(depends []flow.Field) (k keys) {
	for _, f := range depends {
		if get := text[f]; get != nil {
			k.texts = append(k.texts, get)
		} else if write := rest[f]; write != nil {
			k.rest = append(k.rest, write)
		}
	}
	return k
}

func (k *keys) append(b []byte, x *flow.Context) []byte {
	for _, get := range k.texts {
		b = appendText(b, get(x))
	}
	for _, write := range k.rest {
		b = write(b, x)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
