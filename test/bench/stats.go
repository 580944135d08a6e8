package main

import "slices"

// quantile returns the value below which the share q of the samples lies, interpolated between neighbours; 0 without
// samples.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

func median(samples []float64) float64 { return quantile(samples, 0.5) }

// pairwise combines what stock and Forefend showed in the same round.
func pairwise(stock, forefend []float64, f func(stock, forefend float64) float64) []float64 {
	out := make([]float64, min(len(stock), len(forefend)))
	for i := range out {
		out[i] = f(stock[i], forefend[i])
	}
	return out
}

func added(stock, forefend float64) float64 { return forefend - stock }

func ratio(stock, forefend float64) float64 {
	if stock == 0 {
		return 0
	}
	return forefend / stock
}
