package history

import "slices"

// A call is one system call in a summary, packed into 32 bits, ordered by name
// number: number, flags, and either in how many runs it was seen or, in the
// list of calls seen in one run only, in which.
type call uint32

const (
	idBits    = 12
	valueBits = 32 - idBits - 2
	maxValue  = 1<<valueBits - 1
	// flagNative: in some run the call was at full speed in the kernel and not counted.
	flagNative call = 1 << valueBits
	// flagHot: in some run it was called so often that watching it would cost.
	flagHot call = 2 << valueBits
)

func newCall(id uint32, flags call, value uint32) call {
	return call(id<<(valueBits+2)) | flags | call(min(value, maxValue))
}

func (c call) id() uint32    { return uint32(c >> (valueBits + 2)) }
func (c call) value() uint32 { return uint32(c & maxValue) }
func (c call) native() bool  { return c&flagNative != 0 }
func (c call) hot() bool     { return c&flagHot != 0 }

func byID(c, d call) int { return int(c.id()) - int(d.id()) }

// calls counts in how many watched runs each system call was seen.
type calls struct {
	runs uint32 // watched runs
	many []call // seen in at least two runs, by id; value: number of runs
	once []call // seen in one run, by id; value: which run
}

// seen is what one run did: calls with flags and without value, by id.
// native lists the ids that the run did not count.
type seen struct {
	calls  []call
	native []uint32
}

// add counts one more watched run.
func (c *calls) add(run seen) {
	c.runs++
	c.merge(run, c.runs)
}

// amend adds what a run did that had been counted already. Calls of it that are
// in the summary are taken for those counted then.
func (c *calls) amend(run seen) {
	var fresh []call
	for _, s := range run.calls {
		if !contains(c.many, s) && !contains(c.once, s) {
			fresh = append(fresh, s)
		}
	}
	if len(fresh) > 0 {
		c.merge(seen{calls: fresh}, max(c.runs, 1))
	}
}

func contains(list []call, s call) bool {
	_, found := slices.BinarySearchFunc(list, s, byID)
	return found
}

// merge counts run as number n. The lists are rebuilt only when they change
// shape: a steady workload's runs then allocate nothing.
func (c *calls) merge(run seen, n uint32) {
	var risen, fresh int
	for _, s := range run.calls {
		if i, found := slices.BinarySearchFunc(c.many, s, byID); found {
			old := c.many[i]
			c.many[i] = newCall(old.id(), old&(flagNative|flagHot)|s&flagHot, old.value()+1)
		} else if contains(c.once, s) {
			risen++
		} else {
			fresh++
		}
	}
	if risen+fresh > 0 {
		c.reshape(run, n, risen, fresh)
	}
	for _, id := range run.native {
		mark(c.many, id)
		mark(c.once, id)
	}
}

// reshape moves calls seen a second time from once to many, and adds new ones
// to once. Both lists keep exactly the memory they need.
func (c *calls) reshape(run seen, n uint32, risen, fresh int) {
	many := append(make([]call, 0, len(c.many)+risen), c.many...)
	once := make([]call, 0, len(c.once)-risen+fresh)
	for _, old := range c.once {
		if i, found := slices.BinarySearchFunc(run.calls, old, byID); found {
			many = append(many, newCall(old.id(), old&(flagNative|flagHot)|run.calls[i]&flagHot, 2))
		} else {
			once = append(once, old)
		}
	}
	for _, s := range run.calls {
		if !contains(c.many, s) && !contains(c.once, s) {
			once = append(once, newCall(s.id(), s&flagHot, n&maxValue))
		}
	}
	slices.SortFunc(many, byID)
	slices.SortFunc(once, byID)
	c.many, c.once = many, once
}

func mark(list []call, id uint32) {
	if i, found := slices.BinarySearchFunc(list, newCall(id, 0, 0), byID); found {
		list[i] |= flagNative
	}
}

// loners counts the runs that made a call no other run made. A call that was
// native in some run says nothing about that run: it counts neither way.
func (c *calls) loners() int {
	var runs []uint32
	for _, s := range c.once {
		if !s.native() && !slices.Contains(runs, s.value()) {
			runs = append(runs, s.value())
		}
	}
	return len(runs)
}

// all yields the calls that any run made: first those of several runs.
func (c *calls) all(yield func(call) bool) {
	for _, list := range [][]call{c.many, c.once} {
		for _, s := range list {
			if !yield(s) {
				return
			}
		}
	}
}
