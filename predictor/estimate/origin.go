package estimate

import (
	"math"

	"forefend.dev/forefend/runtime/workload"
)

// Pool names the scores that are comparable.
type Pool uint8

// The pools: seven for a workload's own history, by the number of its runs (1, 2, 3-4,
// 5-8, 9-16, 17-32, more), those of first runs, and one for histories that tell hardly more.
const (
	PoolOwn     Pool = 0
	PoolProgram Pool = ownPools + iota - 1 // the same program elsewhere
	PoolKin                                // something in common
	PoolAsked                              // the user's request
	PoolScanned                            // static analysis of the image
	PoolUnknown                            // nothing
	PoolBrief                              // a few brief runs of its own
	pools
)

// ownPools divides PoolOwn by the number of runs; up to fewPool they are few.
const (
	ownPools = 7
	fewPool  = PoolOwn + 2
)

func ownPool(runs int) Pool {
	b := 0
	for most := 1; b < ownPools-1 && runs > most; most *= 2 {
		b++
	}
	return PoolOwn + Pool(b)
}

// Own is the origin of a workload with history: the highest recent peak, in spreads of its peaks. That of a few brief
// runs is in a pool of its own.
func (c *Calibrator) Own(p Peaks) (workload.Origin, bool) {
	if p.Runs < 1 || len(p.Newest) == 0 {
		return workload.Origin{}, false
	}
	top, spread := c.base(p)
	if p.brief() {
		return workload.Origin{Pool: uint8(PoolBrief), Center: top, Scale: max(spread, briefSpread)}, true
	}
	return workload.Origin{Pool: uint8(ownPool(p.Runs)), Center: top, Scale: spread}, true
}

// Affinity is how much workloads have in common.
type Affinity uint8

// The affinities, closest first.
const (
	SameProgram Affinity = iota // the same executable, or a program of the same name
	SharedWord                  // a word of the program's name
	affinities
)

// looseness is how far apart the peaks of workloads of one affinity are before any was seen, as
// a standard deviation of logarithms, and as if how many had been seen.
var looseness = [affinities]struct{ spread, weight float64 }{
	SameProgram: {0.5, 1}, SharedWord: {1, 2},
}

// Peer is another workload's highest peak, and what its user asked for; 0 where nothing was.
type Peer struct{ Peak, Asked float32 }

// askedWeight is the exponent by which peaks follow requests between two workloads of a kind.
const askedWeight = 0.5

// Kin is the origin of a first run that resembles others: their highest peak, in spreads
// of their peaks. Peers that asked for less than asked count for more, those that asked for more count for less: who gives a
// program a tenth of the memory gives it less to do.
func (c *Calibrator) Kin(a Affinity, peers []Peer, asked float64) (workload.Origin, bool) {
	if len(peers) == 0 || a >= affinities {
		return workload.Origin{}, false
	}
	top, sum, squares := math.Inf(-1), 0.0, 0.0
	for _, p := range peers {
		peak := float64(p.Peak)
		if p.Asked > 0 && asked > 0 {
			peak *= math.Pow(asked/float64(p.Asked), askedWeight)
		}
		l := c.log(peak)
		top = max(top, l)
		sum += l
		squares += l * l
	}
	n := float64(len(peers))
	prior := looseness[a]
	spread := math.Sqrt((prior.weight*prior.spread*prior.spread + max(0, squares-sum*sum/n)) / (prior.weight + n - 1))
	pool := PoolKin
	if a == SameProgram {
		pool = PoolProgram
	}
	return workload.Origin{Pool: uint8(pool), Center: top, Scale: spread}, true
}

// Asked is the origin of a first run whose user asked for something.
func (c *Calibrator) Asked(asked float64) (workload.Origin, bool) {
	return workload.Origin{Pool: uint8(PoolAsked), Center: c.log(asked), Scale: 1}, asked > 0
}

// oneInHundred is the quantile of the normal distribution that a scan's High stands for.
const oneInHundred = 2.33

// Scanned is the origin of a first run whose image was scanned: typical is the median peak of
// such programs, high what one in a hundred exceeds.
func (c *Calibrator) Scanned(typical, high float64) (workload.Origin, bool) {
	if !(typical > 0) || !(high > typical) {
		return workload.Origin{}, false
	}
	center := c.log(typical)
	scale := (c.log(high) - center) / oneInHundred
	return workload.Origin{Pool: uint8(PoolScanned), Center: center, Scale: scale}, scale > 0
}

// Unknown is the origin of a first run of which nothing is known.
func (c *Calibrator) Unknown() workload.Origin {
	return workload.Origin{Pool: uint8(PoolUnknown), Center: c.log(0), Scale: 1}
}

// sensible tells whether an origin is one that this version gives. It may come from elsewhere.
func sensible(o workload.Origin) bool {
	return Pool(o.Pool) < pools && math.Abs(o.Center) < 1e3 && o.Scale > 0 && o.Scale < 1e3
}
