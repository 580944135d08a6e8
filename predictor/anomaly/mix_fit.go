package anomaly

import (
	"cmp"
	"math"
	"slices"
)

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
	units := make([]int, names)
	for _, s := range segments {
		had := make([]bool, names)
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
		if dims < maxFeatures && units[name] > 0 {
			f.features[name] = dims
			dims++
		}
	}
	for _, p := range []int{partSecond, partSeconds} {
		d := newMahalanobis(dims)
		for _, s := range segments {
			for i := mixSpans[p]; i <= len(s); i++ {
				d.add(f.vector(s[i-mixSpans[p]:i], dims))
			}
		}
		d.finish(float64(mixSpans[p]))
		f.distance[p] = d
	}
	return f
}

// vector counts the features in units.
func (f *mixFit) vector(units []unit, dims int) []float64 {
	x := make([]float64, dims)
	for _, u := range units {
		for _, c := range u {
			if i := f.features[c.Name]; i >= 0 {
				x[i] += float64(c.Count)
			}
		}
	}
	return x
}

// weight is how much a call says about an attack when it is rare. Calls that start programs, change identities, reach other
// processes or the kernel are what attacks are made of; that files are listed, mapped or renamed for the first time is
// mostly a rare errand.
func weight(name string) float64 {
	if w, ok := callWeights[name]; ok {
		return w
	}
	return 1
}

var callWeights = map[string]float64{
	"execve": 4, "execveat": 4, "ptrace": 4, "setns": 4, "unshare": 4, "mount": 4, "pivot_root": 4, "chroot": 3, "bpf": 4, "init_module": 4,
	"finit_module": 4, "keyctl": 3, "userfaultfd": 4, "process_vm_writev": 4, "process_vm_readv": 4, "perf_event_open": 3, "memfd_create": 3,
	"fork": 3, "vfork": 3, "setuid": 3, "setgid": 3, "setreuid": 3, "setregid": 3, "setresuid": 3, "setresgid": 3, "setgroups": 3, "capset": 3,
	"socket": 2, "connect": 2, "bind": 2, "listen": 2, "dup2": 2, "dup3": 2, "dup": 1.5, "pipe": 2, "pipe2": 2, "kill": 2, "arch_prctl": 2,
}

// score judges the last units, as far as there are enough of them.
func (f *mixFit) score(units []unit, fresh [][]string) (parts [mixParts]float64) {
	span := min(mixSpans[partSurprise], len(units))
	parts[partSurprise] = f.surprise(units[len(units)-span:], fresh[max(0, len(fresh)-span):])
	for _, p := range []int{partSecond, partSeconds} {
		if d := f.distance[p]; len(units) >= mixSpans[p] {
			parts[p] = d.distance(f.vector(units[len(units)-mixSpans[p]:], d.dims))
		}
	}
	return parts
}

// surprise sums over the names in units how seldom segments had them, in nats beyond the most usual.
func (f *mixFit) surprise(units []unit, fresh [][]string) float64 {
	rare := func(segments int) float64 {
		return max(math.Log((float64(f.segments)+1)/(float64(segments)+0.5))-math.Ln2, 0)
	}
	sum := 0.0
	had := make(map[uint16]bool)
	for _, u := range units {
		for _, c := range u {
			if !had[c.Name] {
				had[c.Name] = true
				sum += f.weights[c.Name] * rare(f.presence[c.Name])
			}
		}
	}
	others := make(map[string]bool)
	for _, names := range fresh {
		for _, name := range names {
			if !others[name] {
				others[name] = true
				sum += weight(name) * rare(0)
			}
		}
	}
	return sum
}

// peaks scores every moment of a segment and returns, for each part, the largest score of each spell.
func (f *mixFit) peaks(s []unit) (peaks [mixParts][]float64) {
	const spell = quietRows / unitRows
	var best [mixParts]float64
	for i := range s {
		parts := f.score(s[max(0, i+1-mixSpans[partSeconds]):i+1], nil)
		for p, v := range parts {
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
