package anomaly

import (
	"cmp"
	"math"
	"slices"
)

// featureShare is the share of units that have a name whose counts are compared with others': of rarer ones too few were seen.
const featureShare = 0.02

// mixFit is what a Mix makes of segments.
type mixFit struct {
	segments int
	presence []int // by name: segments that had it
	features []int // by name: its place among the features, -1 when it has none
	weights  []float64
	distance [mixParts]*mahalanobis
}

func newMixFit(segments [][]unit, known []string) *mixFit {
	names := len(known)
	f := &mixFit{segments: len(segments), presence: make([]int, names), features: make([]int, names)}
	for _, name := range known {
		f.weights = append(f.weights, weight(name))
	}
	units, all := make([]int, names), 0
	for _, s := range segments {
		had := make([]bool, names)
		all += len(s)
		for _, u := range s {
			for _, c := range u {
				had[c.Name] = true
				units[c.Name]++
			}
		}
		for name, h := range had {
			if h {
				f.presence[name]++
			}
		}
	}
	order := make([]int, names)
	for i := range order {
		order[i], f.features[i] = i, -1
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(units[b], units[a]) })
	dims := 0
	for _, name := range order {
		if dims < maxFeatures && float64(units[name]) > featureShare*float64(all) {
			f.features[name] = dims
			dims++
		}
	}
	f.count(segments, dims)
	return f
}

// count learns the sums of seconds and of three.
func (f *mixFit) count(segments [][]unit, dims int) {
	for _, p := range []int{partSecond, partSeconds} {
		span := secondRows / unitRows
		if p == partSeconds {
			span = secondsRows / unitRows
		}
		d := newMahalanobis(dims)
		for _, s := range segments {
			for i := span; i <= len(s); i++ {
				sum := f.sum(s[i-span : i])
				d.add(f.vector(sum, dims))
			}
		}
		d.finish(float64(span))
		f.distance[p] = d
	}
}

// weight is how much a call says about an attack when it is rare. Calls that start programs, change identities, reach other
// processes or the kernel are what attacks are made of; that files are listed, mapped or renamed for the first time is
// mostly a rare errand.
func weight(name string) float64 {
	if w, ok := callWeights[name]; ok {
		return w
	}
	if slices.Contains(errands, name) {
		return 0.5
	}
	return 1
}

// errands are calls by which a program looks after its own memory, threads, time and files: they come and go with load, and a first
// rotation or compaction brings several at once.
var errands = []string{
	"brk", "mmap", "munmap", "mprotect", "madvise", "mremap", "futex", "gettid", "getpid", "exit", "exit_group", "procexit", "clone", "wait4",
	"prctl", "set_robust_list", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigreturn", "signaldeliver", "sched_yield",
	"sched_getaffinity", "clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "times", "getrusage", "switch",
	"open", "openat", "access", "faccessat", "stat", "fstat", "lstat", "newfstatat", "statx", "readlink", "getcwd", "getdents", "getdents64",
	"mkdir", "rmdir", "unlink", "unlinkat", "rename", "renameat2", "truncate", "ftruncate", "lseek", "fsync", "fdatasync", "fallocate",
}

var callWeights = map[string]float64{
	"execve": 4, "execveat": 4, "ptrace": 4, "setns": 4, "unshare": 4, "mount": 4, "pivot_root": 4, "chroot": 3, "bpf": 4, "init_module": 4,
	"finit_module": 4, "keyctl": 3, "userfaultfd": 4, "process_vm_writev": 4, "process_vm_readv": 4, "perf_event_open": 3, "memfd_create": 3,
	"fork": 3, "vfork": 3, "setuid": 3, "setgid": 3, "setreuid": 3, "setregid": 3, "setresuid": 3, "setresgid": 3, "setgroups": 3, "capset": 3,
	"socket": 2, "connect": 2, "bind": 2, "listen": 2, "dup2": 2, "dup3": 2, "dup": 1.5, "pipe": 2, "pipe2": 2, "kill": 2, "arch_prctl": 2,
}

// score judges units of so many rows each that end now.
func (f *mixFit) score(units []unit, rows int, fresh [][]string) (parts [mixParts]float64) {
	last := func(n int) []unit { return units[max(0, len(units)-n/rows):] }
	second := f.sum(last(secondRows))
	parts[partSurprise] = f.surprise(f.sum(last(errandRows)), fresh)
	if d := f.distance[partSecond]; len(units)*rows >= secondRows {
		parts[partSecond] = d.distance(f.vector(second, d.dims))
	}
	if d := f.distance[partSeconds]; len(units)*rows >= secondsRows {
		parts[partSeconds] = d.distance(f.vector(f.sum(last(secondsRows)), d.dims))
	}
	return parts
}

// sum counts by name.
func (f *mixFit) sum(units []unit) []uint32 {
	sum := make([]uint32, len(f.presence))
	for _, u := range units {
		for _, c := range u {
			if int(c.Name) < len(sum) { // else learned by another, after this fit
				sum[c.Name] += c.Count
			}
		}
	}
	return sum
}

// vector picks the features of a sum.
func (f *mixFit) vector(sum []uint32, dims int) []float64 {
	x := make([]float64, dims)
	for name, count := range sum {
		if i := f.features[name]; i >= 0 {
			x[i] = float64(count)
		}
	}
	return x
}

// surprise adds up over the names how seldom segments had them, in nats beyond the most usual.
func (f *mixFit) surprise(sum []uint32, fresh [][]string) float64 {
	rare := func(segments int) float64 {
		return max(math.Log((float64(f.segments)+1)/(float64(segments)+0.5))-math.Ln2, 0)
	}
	total := 0.0
	for name, count := range sum {
		if count > 0 {
			total += f.weights[name] * rare(f.presence[name])
		}
	}
	others := make(map[string]bool)
	for _, names := range fresh {
		for _, name := range names {
			if !others[name] {
				others[name] = true
				total += weight(name) * rare(0)
			}
		}
	}
	return total
}

// peaks scores every moment of a segment and returns, for each part, the largest score of each spell.
func (f *mixFit) peaks(s []unit) (peaks [mixParts][]float64) {
	const errand, spell = errandRows / unitRows, quietRows / unitRows
	var best [mixParts]float64
	for i := range s {
		for p, v := range f.score(s[max(0, i+1-errand):i+1], unitRows, nil) {
			best[p] = max(best[p], v)
		}
		if (i+1)%spell == 0 || i == len(s)-1 {
			for p := range best {
				peaks[p] = append(peaks[p], best[p])
			}
			best = [mixParts]float64{}
		}
	}
	return peaks
}
