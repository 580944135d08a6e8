package seccomp

import (
	"fmt"
	"strings"
	"sync"
)

// Phase is how far a container has come in its life. Its own processes' calls are counted by phase, and may have other
// verdicts in each; what a client executes in the container has no phase.
type Phase uint8

const (
	// Starting lasts until the workload serves; for most that serve nobody, all their life.
	Starting Phase = iota
	// Serving is what the workload was started for.
	Serving
	// Stopping begins when it was told to end.
	Stopping

	phases = int(Stopping) + 1
)

var phaseNames = [...]string{Starting: "start", Serving: "serving", Stopping: "stopping"}

// String returns the word that people use for p.
func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

// state is what answers the next call. It is replaced as a whole and never changed.
type state struct {
	own      *Table // for the container's own processes
	executed *Table // for those that a client executes in it
	phase    Phase
}

// SetTable makes the next call of every process obey table, which must not be changed afterwards.
func (c *Container) SetTable(table *Table) { c.SetTables(table, table, c.Phase()) }

// SetTables puts the container into a phase: the next call of its own processes obeys own, that of executed ones executed.
// Neither may be changed afterwards. Callers take turns.
func (c *Container) SetTables(own, executed *Table, phase Phase) {
	c.state.Store(&state{own, executed, min(phase, Stopping)})
}

// Table returns the table in force for executed processes, and for all where phases make no difference. Change a Clone of it and give
// that to SetTable or SetTables.
func (c *Container) Table() *Table { return c.state.Load().executed }

// OwnTable returns the table in force for the container's own processes.
func (c *Container) OwnTable() *Table { return c.state.Load().own }

// Phase returns the phase that SetTables has set.
func (c *Container) Phase() Phase { return c.state.Load().phase }

// tallies are the counters of this machine's own calls: by phase, and of executed processes. They are made when needed.
type tallies [phases + 1]lazyTally

func (t *tallies) of(origin string, p Phase) *tally {
	if origin == OriginExec {
		return t[phases].get()
	}
	return t[p].get()
}

// beginningCalls are what a start is made of, beside what every program does all the time.
const beginningCalls = `execve execveat listen bind chroot capset
setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid`

var beginnings = sync.OnceValue(func() (numbers []int) {
	for name := range strings.FieldsSeq(beginningCalls) {
		if nr, ok := Number(name); ok {
			numbers = append(numbers, nr)
		}
	}
	return numbers
})

// Beginnings counts the calls of the container's own processes that a start is made of: programs executed, sockets bound,
// users changed. A number that stays the same says that nothing is being started.
func (c *Container) Beginnings() (n uint64) {
	for p := range phases {
		t := c.calls[p].load()
		if t == nil {
			continue
		}
		for _, nr := range beginnings() {
			n += t.allowed[nr].Load()
		}
	}
	return n
}
