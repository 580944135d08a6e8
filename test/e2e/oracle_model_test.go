package e2e

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// The oracle knows what a container has to be after each change, by rules of its own: an operator's claim holds where
// there is one, else what the container began with. It shares nothing with Forefend, the words of the command line aside.

// oracle is the expected state of one container.
type oracle struct {
	mayRaise bool                   // this machine lets hard resource limits be raised
	keys     map[string][][2]string // adjustable, and those of this machine's disks

	claims   map[string]claimed         // the operator's, by key
	past     map[int]map[string]claimed // claims by revision
	revision int
	nofile   int64 // hard limit of open files that the processes have
	frozen   bool
}

// claimed is what the operator said of a key, and in which revision.
type claimed struct {
	value    string
	revision int
}

func newOracle(mayRaise bool) *oracle {
	return &oracle{mayRaise: mayRaise, keys: maps.Clone(adjustable), claims: map[string]claimed{}, past: map[int]map[string]claimed{1: {}}, revision: 1, nofile: 1024}
}

// adjustable are the keys that are changed, with the values they may get as the command line has them, and the words in
// which explain repeats them.
var adjustable = map[string][][2]string{
	"memory":                     {{"64Mi", "64 MiB"}, {"96Mi", "96 MiB"}, {"200Mi", "200 MiB"}, {"1Gi", "1 GiB"}}, // the last is over the guardrail
	"memory.soft":                {{"32Mi", "32 MiB"}, {"48Mi", "48 MiB"}},
	"cpus":                       {{"0.5", "0.5"}, {"1.5", "1.5"}, {"2", "2"}},
	"cpu.shares":                 {{"256", "256"}, {"512", "512"}, {"2048", "2048"}},
	"pids":                       {{"100", "100"}, {"200", "200"}, {"500", "500"}},
	"rlimits/RLIMIT_NOFILE":      {{"1024", "1024"}, {"900", "900"}, {"800", "800"}, {"700", "700"}},
	"oom_score_adj":              {{"100", "100"}, {"300", "300"}, {"500", "500"}},
	"syscalls/mkdir":             {{"deny", "deny"}, {"watch", "watch"}},
	"syscalls/rmdir":             {{"deny", "deny"}, {"watch", "watch"}},
	"syscalls/symlink":           {{"deny", "deny"}, {"watch", "watch"}},
	"syscalls/keyctl":            {{"deny", "deny"}, {"watch", "watch"}},
	"network":                    {{"off", "off"}, {"on", "on"}},
	"masked_paths//data/secret":  {{"masked", "masked"}, {"visible", "visible"}},
	"readonly_paths//data/plain": {{"readonly", "readonly"}, {"writable", "writable"}},
	"readonly_root":              {{"on", "on"}, {"off", "off"}},
	"mode":                       {{"observe", "observe"}, {"adaptive", "adaptive"}, {"enforce", "enforce"}},
	"sealed":                     {{"yes", "yes"}, {"no", "no"}},
}

// hasDisk makes the rates of a disk adjustable, and the weight at disks where the kernel has one.
func (o *oracle) hasDisk(numbers string, weighs bool) {
	o.keys["io.read/"+numbers] = [][2]string{{"8Mi", "8 MiB/s"}, {"16Mi", "16 MiB/s"}}
	o.keys["io.write/"+numbers] = [][2]string{{"4Mi", "4 MiB/s"}, {"32Mi", "32 MiB/s"}}
	if weighs {
		o.keys["io.weight"] = [][2]string{{"50", "50"}, {"300", "300"}, {"1000", "1000"}}
	}
}

// oracleGuardrail is the most that the site allows: what is over it is refused with all of its change.
const oracleGuardrail = `[guardrails]
memory = { max = "256Mi" }
`

// sequel is what a command has to come to.
type sequel struct {
	args []string
	code int
	what string // for messages: why it is refused
}

// change chooses a command at random and works out what comes of it.
func (o *oracle) change(random *rand.Rand) sequel {
	switch n := random.IntN(20); {
	case n < 2:
		action := "freeze"
		if o.frozen {
			action = "thaw"
		}
		o.frozen = !o.frozen
		return sequel{args: []string{action}}
	case n == 2:
		return o.becomes([]string{"reset"}, map[string]claimed{})
	case n < 6 && o.revision > 1:
		to := max(1, o.revision-10) // far enough; older ones are forgotten some day
		to += random.IntN(o.revision - to)
		return o.becomes([]string{"rollback", decimal(to)}, maps.Clone(o.past[to]))
	case n < 10:
		return o.unset(random)
	}
	return o.set(random)
}

func (o *oracle) set(random *rand.Rand) sequel {
	next, args := maps.Clone(o.claims), []string{"set"}
	over := false
	keys := slices.Sorted(maps.Keys(o.keys))
	random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys[:1+random.IntN(3)] {
		value := o.keys[key][random.IntN(len(o.keys[key]))][0]
		args = append(args, key+"="+value)
		over = over || value == "1Gi"
		if next[key].value != value { // the same said again is no other claim
			next[key] = claimed{value, o.revision + 1}
		}
	}
	if over {
		return sequel{args, 1, "the guardrail of memory"}
	}
	return o.becomes(args, next)
}

func (o *oracle) unset(random *rand.Rand) sequel {
	name := slices.Sorted(maps.Keys(o.keys))[random.IntN(len(o.keys))]
	next := maps.Clone(o.claims)
	switch family, _, member := strings.Cut(name, "/"); {
	case member && random.IntN(2) == 0:
		name = family
		maps.DeleteFunc(next, func(key string, _ claimed) bool { return strings.HasPrefix(key, family+"/") })
	default:
		delete(next, name)
	}
	return o.becomes([]string{"unset", name}, next)
}

// becomes makes next what the operator claims, all but what this machine cannot do: raise a hard limit.
func (o *oracle) becomes(args []string, next map[string]claimed) sequel {
	s := sequel{args: args}
	want := number(next, "rlimits/RLIMIT_NOFILE", 1024)
	switch {
	case want > o.nofile && !o.mayRaise:
		s.code, s.what = 1, "raising a hard limit"
		for _, key := range []string{"rlimits/RLIMIT_NOFILE", "oom_score_adj"} { // a dimension is all or nothing
			delete(next, key)
			if c, ok := o.claims[key]; ok {
				next[key] = c
			}
		}
	default:
		o.nofile = want
	}
	if maps.Equal(next, o.claims) {
		return s
	}
	o.claims = next
	o.revision++
	o.past[o.revision] = maps.Clone(next)
	return s
}

// is reports what holds: the operator's word for a key, else what holds without.
func (o *oracle) is(key, otherwise string) string {
	if c, ok := o.claims[key]; ok {
		return c.value
	}
	return otherwise
}

// refuses reports whether a call is denied: two things aside, only where the operator says so. keyctl is dangerous, and
// denied by default in all modes but observe.
func (o *oracle) refuses(call string) bool {
	otherwise := "watch"
	if call == "keyctl" && o.is("mode", "adaptive") != "observe" {
		otherwise = "deny"
	}
	return o.is("syscalls/"+call, otherwise) == "deny"
}
